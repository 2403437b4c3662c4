//! Whom a node talks to, as it is said on the command line; and `id` and `trust`, which help to say it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use ftx_proto::digest::NodeId;
use ftx_proto::name::printable;

use super::args::CommonOptions;
use super::json::Output;
use crate::config::{Access, Services, StepAuth};
use crate::error::{Code, Error};
use crate::identity::Identity;
use crate::trust::{self, DEFAULT_FILE};

/// Whom a node talks to.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct AccessOptions {
    /// Talk only to the nodes whose ids stand in FILE (see `ftx-node trust`); `id` and `trust` use it, or `trust` in the state
    /// folder
    #[arg(long, global = true, value_name = "FILE", env = "FTX_TRUST")]
    pub(super) trust: Option<PathBuf>,
    /// Talk only to nodes that know the secret in FILE (16 bytes or more, for its owner only), and let no others see what is
    /// looked for and offered
    #[arg(long, global = true, value_name = "FILE", env = "FTX_SECRET_FILE")]
    pub(super) secret_file: Option<PathBuf>,
}

impl AccessOptions {
    pub(super) fn access(&self) -> Access {
        Access { trust: self.trust.clone(), secret_file: self.secret_file.clone() }
    }
}

/// What is done with the trusted nodes.
#[derive(Debug, Subcommand)]
pub(super) enum TrustAction {
    /// Trust a node
    Add {
        /// Its id, as `ftx-node id` prints it there
        id: String,
        /// What it is called here
        name: Option<String>,
    },
    /// Trust a node no more
    Rm {
        /// Its id, the first 8 or more digits of it, or its name
        node: String,
    },
    /// List the trusted nodes
    Ls,
}

/// Refuses services that would give to everybody what only some may have.
pub(super) fn check_services(access: &Access, services: &Services) -> Result<(), Error> {
    if !access.is_closed() {
        return Ok(());
    }
    let classic = services.step.as_ref().is_some_and(|step| step.auth == StepAuth::Classic);
    let open = [
        ("--udp-get", services.udp_get),
        ("--striped", services.striped.is_some()),
        ("--step-auth classic", classic),
    ];
    match open.into_iter().find(|(_, is_on)| *is_on) {
        None => Ok(()),
        Some((flag, _)) => {
            let message = format!(
                "{flag} gives what is shared to everybody on the network, whatever --trust and --secret-file say; leave \
                 it out, or run it as another node, with a --share and a --state of its own"
            );
            Err(Error::new(Code::Usage, message))
        }
    }
}

/// `ftx-node id`: who this node is.
pub(super) fn id(common: &CommonOptions, output: &Output) -> Result<(), Error> {
    let state = state(common)?;
    let node = Identity::load_or_create(&state)?.node();
    output.line(node);
    output.event("done", json!({ "node": node.to_string(), "short": node.short() }));
    Ok(())
}

/// `ftx-node trust`: whom this node trusts.
pub(super) fn trust(action: TrustAction, common: &CommonOptions, output: &Output) -> Result<(), Error> {
    let file = match &common.access.trust {
        Some(file) => file.clone(),
        None => state(common)?.join(DEFAULT_FILE),
    };
    let shown = printable(&file.display().to_string()).to_string();
    match action {
        TrustAction::Add { id, name } => {
            let wrong = |error| format!("'{}' is no node id: {error}", printable(&id));
            let node: NodeId = id.parse().map_err(|error| Error::new(Code::Usage, wrong(error)))?;
            let name = name.as_deref().map(trust::check_name).transpose();
            let name = name.map_err(|why| Error::new(Code::Usage, why))?;
            let existed = trust::add(&file, node, name.as_deref())?;
            let what = if existed { "was" } else { "is" };
            output.line(format_args!(
                "{} {what} in {shown}; it counts where --trust {shown} is given",
                node.short()
            ));
            output.event(
                "done",
                json!({ "node": node.to_string(), "name": name, "existed": existed, "file": shown }),
            );
        }
        TrustAction::Rm { node } => {
            let gone = trust::remove(&file, &node)?;
            let (node, name) = (gone.node, gone.name);
            output.line(format_args!("{} is not in {shown} any more; its sessions end", node.short()));
            output.event("done", json!({ "node": node.to_string(), "name": name, "file": shown }));
        }
        TrustAction::Ls => {
            // The one in the state folder need not be there.
            let is_there = common.access.trust.is_some() || file.exists();
            let trusted = if is_there { trust::read(&file)? } else { Vec::new() };
            for one in &trusted {
                output.line(format_args!("{}  {}", one.node, one.name.as_deref().unwrap_or_default()));
                output.event("trusted", json!({ "node": one.node.to_string(), "name": one.name }));
            }
            output.event("done", json!({ "nodes": trusted.len(), "file": shown }));
        }
    }
    Ok(())
}

/// The state folder, made if it is not there.
fn state(common: &CommonOptions) -> Result<PathBuf, Error> {
    let state = common.state_dir()?;
    std::fs::create_dir_all(&state).map_err(|error| {
        let shown = state.display();
        Error::other(format!("cannot create the state folder {shown}: {error}; choose another with --state"))
    })?;
    Ok(state)
}
