//! `put`: gives a file to a node, or to a machine that speaks one of the older systems.

use tokio::runtime::Handle;

use super::args::{CommonOptions, PutOptions};
use super::json::Output;
use crate::error::{Code, Error};
use crate::interop::Url;
use ftx_proto::name::printable;

pub(super) async fn put(
    options: PutOptions,
    common: CommonOptions,
    data: Handle,
    output: &Output,
) -> Result<(), Error> {
    let url = options.url.clone();
    match url {
        Url::Step { .. } => super::step::put(options, common, data, output).await,
        Url::TcpPut { host, port } => {
            super::classic::put(&options.file, host, port, common, data, output).await
        }
        Url::Inbox { node, name } => super::inbox::put(options, node, name, common, data, output).await,
        Url::UdpGet { .. } | Url::Striped { .. } => {
            let message = format!("{url}: files can only be got from there, with `ftx-node get`");
            Err(Error::new(Code::Usage, message))
        }
    }
}

/// The URL that an argument is, unless it is meant as a name.
pub(super) fn url_of(argument: Option<&str>) -> Result<Option<Url>, Error> {
    match argument {
        Some(text) if Url::is_meant(text) => {
            let wrong = |error| Error::new(Code::Usage, format!("'{}': {error}", printable(text)));
            text.parse().map(Some).map_err(wrong)
        }
        _ => Ok(None),
    }
}
