//! `ftx-node step-user`: who may log in to STEP, with which password.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use ftx_proto::interop::step::limits::PASSWORD_BYTES_MAX;
use ftx_proto::interop::step::value::UserName;
use ftx_proto::name::printable;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;

use super::args::StepUserAction;
use super::json::Output;
use crate::error::{Code, Error};
use crate::interop::step_users::{StepUsers, UsersError};

pub(super) fn step_user(action: StepUserAction, output: &Output) -> Result<(), Error> {
    match action {
        StepUserAction::Add { name, file } => {
            let name = user_of(&name)?;
            let password = ask_password()?;
            let existed = StepUsers::new(&file).add(&name, &password).map_err(failed)?;
            let what = if existed { "has a new password" } else { "may log in" };
            output.line(format_args!("{} {what}", printable(name.as_str())));
            output.event("done", json!({ "user": name.as_str(), "existed": existed }));
        }
        StepUserAction::Rm { name, file } => {
            let name = user_of(&name)?;
            if !StepUsers::new(&file).remove(&name).map_err(failed)? {
                let message = format!("{}: no user {}", file.display(), printable(name.as_str()));
                return Err(Error::new(Code::NotFound, message));
            }
            output.line(format_args!(
                "{} may not log in any more, and tokens from before are not good any more",
                printable(name.as_str())
            ));
            output.event("done", json!({ "user": name.as_str() }));
        }
        StepUserAction::Ls { file } => {
            let names = StepUsers::new(&file).names().map_err(failed)?;
            for name in &names {
                output.line(printable(name.as_str()));
                output.event("user", json!({ "user": name.as_str() }));
            }
            output.event("done", json!({ "users": names.len() }));
        }
    }
    Ok(())
}

fn user_of(name: &str) -> Result<UserName, Error> {
    name.parse().map_err(|error| Error::new(Code::Usage, format!("{}: {error}", printable(name))))
}

fn failed(error: UsersError) -> Error {
    Error::new(Code::Usage, error.to_string())
}

/// Asks for a password twice without showing it; where nobody can be asked, takes the first line of the input.
fn ask_password() -> Result<String, Error> {
    let input = io::stdin();
    let password = if input.is_terminal() {
        let silent = Silent::begin()?;
        let password = prompt("Password: ")?;
        let again = prompt("Again: ")?;
        drop(silent);
        if password != again {
            return Err(Error::new(Code::Usage, "the two passwords differ; nothing was changed"));
        }
        password
    } else {
        read_line()?
    };
    if password.is_empty() {
        return Err(Error::new(Code::Usage, "an empty password; give one on the first line of the input"));
    }
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Error::new(Code::Usage, format!("a password has at most {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(password)
}

fn prompt(text: &str) -> Result<String, Error> {
    // A prompt that cannot be shown is no reason not to read.
    let _ = write!(io::stderr(), "{text}").and_then(|()| io::stderr().flush());
    let line = read_line();
    let _ = writeln!(io::stderr());
    line
}

fn read_line() -> Result<String, Error> {
    let mut line = String::new();
    let limit = PASSWORD_BYTES_MAX as u64 + 3;
    // One buffer for all of standard input, so that a second line is not lost with the first.
    let read = io::stdin().lock().take(limit).read_line(&mut line);
    read.map_err(|error| Error::new(Code::Usage, format!("cannot read the password: {error}")))?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// The terminal shows nothing of what is typed until this is dropped.
struct Silent(Termios);

impl Silent {
    fn begin() -> Result<Self, Error> {
        let failed =
            |error: rustix::io::Errno| Error::other(format!("cannot ask for a password unseen: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Silent(before))
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // If the terminal is gone, it shows nothing either.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}
