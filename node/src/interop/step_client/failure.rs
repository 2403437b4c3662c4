//! What a failure is to the user: the kind, and what to do.

use ftx_proto::interop::step::client::{Refused, Reply};
use ftx_proto::interop::step::download::DownloadFailure;
use ftx_proto::interop::step::upload::UploadFailure;

use super::connection::{Account, Lost};
use crate::error::{Code, Error};

impl Account {
    /// The server's no to what was tried. The status says which kind it is, as far as servers agree on that.
    pub(super) fn refused(&self, refused: &Refused) -> Error {
        let message = refused.message.to_ascii_lowercase();
        let code = match refused.status {
            _ if NO_ROOM.iter().any(|words| message.contains(words)) => Code::DiskFull,
            404 => Code::NotFound,
            402 if message.contains("existing") || message.contains("exist") => Code::Exists,
            401 | 403 => Code::Refused,
            _ => Code::Other,
        };
        let advice = match code {
            Code::Exists => " Delete it first, or choose another key",
            _ => "",
        };
        Error::new(code, format!("{}: {refused}{advice}", self.server()))
    }

    /// The connection failed while something was tried.
    pub(super) fn lost(&self, lost: &Lost) -> Error {
        let server = self.server();
        match lost {
            Lost::Unreachable(why) => {
                let message = format!("cannot reach the STEP server at {server}: {why}");
                Error::new(Code::Network, message)
            }
            Lost::Broken(why) => {
                Error::new(Code::Network, format!("the connection to {server} broke: {why}"))
            }
            Lost::Silent => {
                let seconds = self.reply_time().as_secs_f64();
                let message = format!(
                    "{server} did not answer within {seconds:.1} s; is it a STEP server? Give a slow one more time \
                     with --timeout"
                );
                Error::new(Code::Timeout, message)
            }
            Lost::LoginRefused(refused) => {
                let message = format!(
                    "{server} does not let the user in: {refused}; a server with its own passwords needs --password-file"
                );
                Error::new(Code::Refused, message)
            }
        }
    }

    /// An upload goes no further; `last` is why the last connection that failed did.
    pub(super) fn upload_failed(&self, failure: &UploadFailure, last: Option<&Lost>) -> Error {
        match failure {
            UploadFailure::Refused(refused) => self.refused(refused),
            UploadFailure::Lost => self.lost_again(last),
            UploadFailure::OtherFile => Error::new(Code::Exists, format!("{}: {failure}", self.server())),
        }
    }

    /// A download goes no further; `last` is why the last connection that failed did.
    pub(super) fn download_failed(&self, failure: &DownloadFailure, last: Option<&Lost>) -> Error {
        match failure {
            DownloadFailure::Refused(refused) => self.refused(refused),
            DownloadFailure::Lost => self.lost_again(last),
        }
    }

    /// The reply is to another question than was asked. The session sees to it that this does not happen.
    pub(super) fn misanswered(&self, reply: &Reply) -> Error {
        tracing::debug!(?reply, "a reply to another question");
        Error::new(Code::Network, format!("{} answers something else than it was asked", self.server()))
    }

    fn lost_again(&self, last: Option<&Lost>) -> Error {
        match last {
            Some(lost) => self.lost(lost),
            None => {
                let message = format!("{} sends blocks of the wrong length again and again", self.server());
                Error::new(Code::Network, message)
            }
        }
    }
}

/// What servers say, in their several words, when there is no room.
const NO_ROOM: &[&str] = &["quota", "no room", "disk is full", "disk full", "no space"];
