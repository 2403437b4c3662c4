//! The older systems that a node serves: what stands behind them, and their sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::listen;
use crate::actors::catalog::CatalogMessage;
use crate::actors::link::Link;
use crate::actors::listener::{ListenerArguments, Serve};
use crate::actors::node::Links;
use crate::actors::step::{StepListenerArguments, StepService};
use crate::clock::Clock;
use crate::config::{ListenAt, NodeConfig, StepAuth, StepConfig};
use crate::error::{Code, Error};
use crate::interop::digests::Digests;
use crate::interop::step_store::{InboxUsage, StepStore, StepStoreConfig};
use crate::interop::step_users::{PasswordGate, StepAccess, StepUsers, token_key};
use crate::interop::striped_server::StripedServer;
use crate::interop::tcp_put_server::TcpPutServer;
use crate::limits::{STRIPED_DOWNLOADS_MAX, TCP_PUTS_MAX};
use crate::store::remove_abandoned;

/// Where a node serves the older systems.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceAddrs {
    /// STEP.
    pub step: Option<SocketAddr>,
    /// Striped downloads.
    pub striped: Option<SocketAddr>,
    /// TCP put.
    pub tcp_put: Option<SocketAddr>,
    /// udp-get.
    pub udp_get: Option<SocketAddr>,
}

impl ServiceAddrs {
    /// Those there are, by their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let all = [
            ("step", self.step),
            ("striped", self.striped),
            ("tcp_put", self.tcp_put),
            ("udp_get", self.udp_get),
        ];
        all.into_iter().filter_map(|(name, addr)| Some((name, addr?)))
    }
}

/// The services over TCP, ready for their actors: their sockets are open.
pub(super) struct Started {
    pub(super) step: Option<StepListenerArguments>,
    pub(super) striped: Option<ListenerArguments>,
    pub(super) tcp_put: Option<ListenerArguments>,
}

impl Started {
    /// Opens what the configuration asks for.
    pub(super) fn new(
        config: &NodeConfig,
        links: &Links,
        digests: &Arc<Digests>,
        data: &Handle,
        clock: Clock,
    ) -> Result<Self, Error> {
        let catalog = links.catalog.clone();
        let open = |at: Option<ListenAt>, port, system, connections_max, serve| -> Result<_, Error> {
            let Some(at) = at else { return Ok(None) };
            let listener = Arc::new(listen_for(system, at, port, config)?);
            Ok(Some(ListenerArguments { system, listener, serve, connections_max, data: data.clone() }))
        };
        let server = Arc::new(StripedServer::new(catalog.clone(), Arc::clone(digests), config.max_upload));
        let serve = Serve::new(move |tcp, addr| Arc::clone(&server).serve(tcp, addr));
        let striped = open(config.services.striped, 0, "striped", STRIPED_DOWNLOADS_MAX, serve)?;
        let step = match &config.services.step {
            Some(step) => Some(start_step(step, config, catalog, digests, data.clone(), clock)?),
            None => None,
        };
        let usage = step.as_ref().and_then(|step| step.service.store.usage());
        let server = tcp_put_server(config, usage, clock)?;
        let serve = Serve::new(move |tcp, addr| server.clone().serve(tcp, addr));
        let port = ftx_proto::interop::tcp_put::PORT;
        let tcp_put = open(config.services.tcp_put, port, "TCP put", TCP_PUTS_MAX, serve)?;
        Ok(Started { step, striped, tcp_put })
    }

    /// Where they are.
    pub(super) fn addrs(&self, config: &NodeConfig) -> ServiceAddrs {
        let anywhere = Ipv4Addr::UNSPECIFIED.into();
        let udp_get = SocketAddr::new(config.bind.unwrap_or(anywhere), config.port);
        let of = |listener: &Arc<TcpListener>| listener.local_addr().ok();
        ServiceAddrs {
            step: self.step.as_ref().and_then(|step| of(&step.listener)),
            striped: self.striped.as_ref().and_then(|striped| of(&striped.listener)),
            tcp_put: self.tcp_put.as_ref().and_then(|tcp_put| of(&tcp_put.listener)),
            udp_get: config.services.udp_get.then_some(udp_get),
        }
    }
}

/// Tidies the inbox up after a crash.
pub(super) fn tidy_inbox(inbox: Option<&Path>) {
    let Some(inbox) = inbox else { return };
    if let Err(error) = remove_abandoned(inbox) {
        tracing::warn!("{}: what a crash left cannot be removed: {error}", inbox.display());
    }
}

/// What stands behind TCP put. The room of an inbox is counted by one, so `usage` is STEP's where both put into it.
fn tcp_put_server(
    config: &NodeConfig,
    usage: Option<Arc<InboxUsage>>,
    clock: Clock,
) -> Result<TcpPutServer, Error> {
    let Some(inbox) = &config.inbox else { return Ok(TcpPutServer { inbox: None, usage: None, clock }) };
    let usage = match usage {
        Some(usage) => usage,
        None => Arc::new(
            InboxUsage::open(&inbox.path, inbox.limits).map_err(|error| no_inbox(&inbox.path, &error))?,
        ),
    };
    Ok(TcpPutServer { inbox: Some(inbox.path.clone()), usage: Some(usage), clock })
}

pub(super) fn no_inbox(inbox: &Path, error: &io::Error) -> Error {
    Error::new(Code::Usage, format!("cannot use {} as inbox: {error}", inbox.display()))
}

/// Opens what stands behind STEP, and the socket that its clients connect to.
fn start_step(
    step: &StepConfig,
    config: &NodeConfig,
    catalog: Link<CatalogMessage>,
    digests: &Arc<Digests>,
    data: Handle,
    clock: Clock,
) -> Result<StepListenerArguments, Error> {
    let access = match &step.auth {
        StepAuth::Classic => {
            tracing::warn!(
                "STEP with --step-auth classic is unsafe: whoever knows the name of a user can read, replace and \
                 delete the files of that user"
            );
            StepAccess::Classic
        }
        StepAuth::File(path) => {
            let users = StepUsers::new(path);
            // Now rather than at the first login.
            users.names().map_err(|error| Error::new(Code::Usage, format!("--step-auth: {error}")))?;
            let key = token_key(&config.state).map_err(|error| {
                let state = config.state.display();
                Error::other(format!("cannot use the key of STEP tokens in {state}: {error}"))
            })?;
            StepAccess::Secrets(key, Box::new(PasswordGate::new(users)))
        }
    };
    let store = StepStoreConfig {
        inbox: config.inbox.as_ref().map(|inbox| inbox.path.clone()),
        limits: config.inbox.as_ref().map(|inbox| inbox.limits).unwrap_or_default(),
        shares: config.shares.clone(),
        state: Some(config.state.clone()),
    };
    let inbox = store.inbox.clone().unwrap_or_default();
    let store = StepStore::open(store, Arc::clone(digests)).map_err(|error| no_inbox(&inbox, &error))?;
    let listener = listen_for("STEP", step.at, ftx_proto::interop::step::DEFAULT_PORT, config)?;
    Ok(StepListenerArguments {
        listener: Arc::new(listener),
        service: Arc::new(StepService::new(store, access)),
        catalog,
        data,
        clock,
    })
}

/// Opens the socket of a service; where that cannot be, the error names it.
fn listen_for(system: &str, at: ListenAt, port: u16, config: &NodeConfig) -> Result<TcpListener, Error> {
    listen(at.ip.or(config.bind), at.port.unwrap_or(port), false)
        .map_err(|error| Error::new(error.code, format!("{system}: {}", error.message)))
}
