//! Where something is in one of the older systems, or in the inbox of a node, as it is said on the command line.
//!
//! It owns the form of these texts and how they are cut. It refuses passwords, which would be seen by everybody who can
//! list processes, and resolves no host. What it gives out is checked: keys and names are such as the systems can carry.
//!
//! | text | what is decoded |
//! |---|---|
//! | `step://user@host[:port][/key]` | `%XX` in user and key; the key may hold `/`, `?` and `#` |
//! | `tcp-put://host[:port]` | nothing |
//! | `udp-get://name` | nothing: the name is sent as it stands |
//! | `striped://host:port/path` | nothing: the path is sent as it stands, with the query |
//! | `ftx://node[/name]` | nothing: a node is its name, the beginning of its id, or `host[:port]` |

use std::fmt;
use std::str::FromStr;

use ftx_proto::interop::step::value::{Key, KeyError, UserName};
use ftx_proto::interop::striped::reply::PATH_BYTES_MAX;
use ftx_proto::name::{NameError, RelativePath, printable};

/// Something in one of the older systems, or the inbox of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    /// A file or data of a user on a STEP server, or all that the user has there.
    Step {
        /// As it is typed, dots and all.
        user: String,
        /// Name or address of the machine.
        host: String,
        /// Of the server.
        port: u16,
        /// Which one, if one is named.
        key: Option<Key>,
    },
    /// A machine that takes single files over TCP.
    TcpPut {
        /// Name or address of the machine.
        host: String,
        /// Of the server.
        port: u16,
    },
    /// A file that is asked for by broadcast.
    UdpGet {
        /// Its name.
        name: RelativePath,
    },
    /// A file on a server of stripes.
    Striped {
        /// Name or address of the machine.
        host: String,
        /// Of the server's control connections.
        port: u16,
        /// Begins with `/`, and has the query if there is one.
        path: String,
    },
    /// The inbox of a node.
    Inbox {
        /// Its name, the beginning of its id, or where it is.
        node: String,
        /// What the file is to be called there; its own name, if nothing is said.
        name: Option<RelativePath>,
    },
}

/// Why a text is no such place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It begins with none of the schemes.
    #[error("it has to begin with step://, tcp-put://, udp-get://, striped:// or ftx://")]
    Scheme,
    /// It is not cut as its scheme wants it.
    #[error("{problem}; it has to look like {form}")]
    Form {
        /// What is wrong.
        problem: String,
        /// What is expected.
        form: &'static str,
    },
}

/// Longest name of a node, or of where it is, in bytes.
const NODE_BYTES_MAX: usize = 256;

/// The port of a server that takes single files.
pub const TCP_PUT_PORT: u16 = 5001;

impl Url {
    /// Whether a text is meant as a URL. No name of a content looks like one, since a name has no empty part.
    pub fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'+')
        })
    }

    fn step(rest: &str) -> Result<Self, String> {
        let (authority, key) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, server) = authority.rsplit_once('@').ok_or("there is no user")?;
        if user.contains(':') {
            return Err(
                "a password does not belong there (see --password-file; a ':' of the user is %3A)".to_owned()
            );
        }
        let user = decoded(user)?;
        user.parse::<UserName>().map_err(|error| error.to_string())?;
        let (host, port) = server_of(server, Some(ftx_proto::interop::step::DEFAULT_PORT))?;
        let key = match key {
            "" => None,
            key => {
                Some(decoded(key)?.parse().map_err(|error: KeyError| format!("the key is wrong: {error}"))?)
            }
        };
        Ok(Url::Step { user, host, port, key })
    }

    fn tcp_put(rest: &str) -> Result<Self, String> {
        let server = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = server_of(server, Some(TCP_PUT_PORT))?;
        Ok(Url::TcpPut { host, port })
    }

    fn inbox(rest: &str) -> Result<Self, String> {
        let (node, name) = rest.split_once('/').unwrap_or((rest, ""));
        if node.is_empty() || node.len() > NODE_BYTES_MAX || node.contains(char::is_control) {
            return Err("there is no node".to_owned());
        }
        let name = match name {
            "" => None,
            name => Some(name.parse::<RelativePath>().map_err(|error| error.to_string())?),
        };
        if name.as_ref().is_some_and(|name| name.parts().count() > 1) {
            return Err("a file goes into the inbox itself, not into a folder in it".to_owned());
        }
        Ok(Url::Inbox { node: node.to_owned(), name })
    }

    fn udp_get(rest: &str) -> Result<Self, String> {
        let name = rest.parse().map_err(|error: NameError| error.to_string())?;
        Ok(Url::UdpGet { name })
    }

    fn striped(rest: &str) -> Result<Self, String> {
        let slash = rest.find('/').ok_or("there is no path")?;
        let (server, path) = rest.split_at(slash);
        let (host, port) = server_of(server, None)?;
        if path == "/" {
            return Err("there is no path".to_owned());
        }
        if path.len() > PATH_BYTES_MAX || path.contains(char::is_control) {
            return Err(format!("the path has a control character, or more than {PATH_BYTES_MAX} bytes"));
        }
        Ok(Url::Striped { host, port, path: path.to_owned() })
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let (parsed, form) = match scheme.to_ascii_lowercase().as_str() {
            "step" => (Url::step(rest), "step://user@host[:port][/key]"),
            "tcp-put" => (Url::tcp_put(rest), "tcp-put://host[:port]"),
            "udp-get" => (Url::udp_get(rest), "udp-get://name"),
            "striped" => (Url::striped(rest), "striped://host:port/path"),
            "ftx" => (Url::inbox(rest), "ftx://node[/name]"),
            _ => return Err(UrlError::Scheme),
        };
        parsed.map_err(|problem| UrlError::Form { problem, form })
    }
}

/// For people and logs; it can be parsed again if it has no control characters.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = |host: &str, port: u16| match host.contains(':') {
            true => format!("[{}]:{port}", printable(host)),
            false => format!("{}:{port}", printable(host)),
        };
        match self {
            Url::Step { user, host, port, key } => {
                write!(f, "step://{}@{}", encoded(user, &['/', '@', ':']), server(host, *port))?;
                match key {
                    Some(key) => write!(f, "/{}", encoded(key.as_str(), &[])),
                    None => Ok(()),
                }
            }
            Url::TcpPut { host, port } => write!(f, "tcp-put://{}", server(host, *port)),
            Url::UdpGet { name } => write!(f, "udp-get://{name}"),
            Url::Striped { host, port, path } => {
                write!(f, "striped://{}{}", server(host, *port), printable(path))
            }
            Url::Inbox { node, name } => {
                write!(f, "ftx://{}", printable(node))?;
                name.as_ref().map_or(Ok(()), |name| write!(f, "/{name}"))
            }
        }
    }
}

/// `host`, `host:port`, `[address]` or `[address]:port`.
fn server_of(text: &str, default_port: Option<u16>) -> Result<(String, u16), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("the bracket of the address is not closed")?;
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err(format!("'{}' follows the address", printable(rest))),
        }
    } else {
        match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address has to stand in brackets".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("there is no host".to_owned());
    }
    if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/?#@[]".contains(c)) {
        return Err(format!("'{}' cannot be a host", printable(host)));
    }
    let port = match port {
        None => default_port.ok_or("there is no port")?,
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return Err(format!("'{}' is no port", printable(port))),
        },
    };
    Ok((host.to_owned(), port))
}

/// The text with each `%XX` as the byte it means.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        let digits = piece.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("a '%' needs two hex digits behind it (a '%' itself is %25)")?);
        bytes.extend_from_slice(&piece.as_bytes()[2..]);
    }
    String::from_utf8(bytes).map_err(|_| "its %XX are not UTF-8".to_owned())
}

/// The text with `%XX` for what would be cut or decoded, and for what would write to a terminal.
fn encoded(text: &str, special: &[char]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        let mut buffer = [0; 4];
        let shown: &str = c.encode_utf8(&mut buffer);
        if c == '%' || special.contains(&c) || printable(shown).to_string() != shown {
            shown.bytes().for_each(|byte| encoded.push_str(&format!("%{byte:02X}")));
        } else {
            encoded.push(c);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(user: &str, host: &str, port: u16, key: &str) -> Url {
        let key = (!key.is_empty()).then(|| key.parse().unwrap());
        Url::Step { user: user.to_owned(), host: host.to_owned(), port, key }
    }

    #[test]
    fn each_scheme_is_cut_in_its_own_way() {
        let cases = [
            ("step://a.b@host", step("a.b", "host", 1379, "")),
            ("STEP://a@10.0.0.1:7/", step("a", "10.0.0.1", 7, "")),
            ("step://a@[fe80::1]/d/e.bin?x#y", step("a", "fe80::1", 1379, "d/e.bin?x#y")),
            ("step://a@[::1]:80//abs/k", step("a", "::1", 80, "/abs/k")),
            ("step://a%40b%3A%2F@h/100%25%20%e6%96%87", step("a@b:/", "h", 1379, "100% 文")),
            ("step://a@b@h/k@l", step("a@b", "h", 1379, "k@l")),
            ("tcp-put://h", Url::TcpPut { host: "h".to_owned(), port: 5001 }),
            ("tcp-put://h:9/", Url::TcpPut { host: "h".to_owned(), port: 9 }),
            ("udp-get://a b%20.bin", Url::UdpGet { name: "a b%20.bin".parse().unwrap() }),
            ("ftx://lab 3", Url::Inbox { node: "lab 3".to_owned(), name: None }),
            ("ftx://[::1]:7/", Url::Inbox { node: "[::1]:7".to_owned(), name: None }),
            ("ftx://ab12cd34/x y", Url::Inbox { node: "ab12cd34".to_owned(), name: "x y".parse().ok() }),
            (
                "striped://h:8000/a%20b?threads=8&c",
                Url::Striped { host: "h".to_owned(), port: 8000, path: "/a%20b?threads=8&c".to_owned() },
            ),
        ];
        for (text, url) in cases {
            assert!(Url::is_meant(text), "{text}");
            assert_eq!(text.parse().as_ref(), Ok(&url), "{text}");
            assert_eq!(url.to_string().parse().as_ref(), Ok(&url), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_expected() {
        let cases = [
            ("name", "begin with step://"),
            ("http://x/y", "begin with step://"),
            ("step://host/key", "no user"),
            ("step://a:secret@host/key", "--password-file"),
            ("step://@host/key", "user name"),
            ("step://a@/key", "no host"),
            ("step://a@host:0/key", "'0' is no port"),
            ("step://a@host:+7/key", "'+7' is no port"),
            ("step://a@::1/key", "brackets"),
            ("step://a@[::1/key", "not closed"),
            ("step://a@[::1]x/key", "follows the address"),
            ("step://a@h\n/key", "cannot be a host"),
            ("step://a@host/%4", "%25"),
            ("step://a@host/%+4", "%25"),
            ("step://a@host/%ff", "not UTF-8"),
            ("step://a@host/a%2f..%2fb", "'..'"),
            ("step://a@host/%00", "NUL"),
            ("step://a@host/%é", "%25"),
            ("tcp-put://host/file", "cannot be a host"),
            ("udp-get://", "udp-get://name"),
            ("udp-get:///etc/passwd", "absolute"),
            ("striped://host/file", "no port"),
            ("ftx://", "no node"),
            ("ftx:///x", "no node"),
            ("ftx://ada/..", "'..'"),
            ("ftx://ada/a/b", "not into a folder"),
            ("striped://host:80/", "no path"),
            ("striped://host:80/a\u{1b}[2J", "control character"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<Url>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_not_meant_as_urls() {
        for text in ["ubuntu.iso", "a/b@01234567", "a:b", "://x", "a b://c", ""] {
            assert!(!Url::is_meant(text), "{text}");
        }
    }
}
