//! Where a connection leads, or a listener listens.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use crate::error::{DWCPError, Result};

/// An address as configurations name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// A host name or IP address (without brackets), and a port.
    Tcp { host: String, port: u16 },
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `host`, `host:port`, `[IPv6]:port`, a bare IPv6 address, or `unix:/path`.
    ///
    /// # Errors
    ///
    /// `invalid_config` for what is none of these, `unsupported` for a URL.
    pub(crate) fn parse(text: &str, default_port: u16) -> Result<Self> {
        let wrong = |why: &str| {
            Err(DWCPError::Config(format!(
                "address: `{text}` {why}; it is written host, host:port, [IPv6]:port or unix:/path"
            )))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains('\0') {
                return wrong("names no path");
            }
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        if text.contains("://") {
            return Err(DWCPError::Unsupported(format!(
                "address: `{text}` is a URL: this version connects over TCP and Unix sockets"
            )));
        }
        let (host, port) = if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else if let Some(rest) = text.strip_prefix('[') {
            match rest.split_once(']') {
                Some((host, "")) if host.parse::<Ipv6Addr>().is_ok() => (host, None),
                Some((host, port)) if host.parse::<Ipv6Addr>().is_ok() && port.starts_with(':') => {
                    (host, Some(&port[1..]))
                }
                _ => return wrong("is no IPv6 address in brackets"),
            }
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            return wrong("names no host");
        }
        let port = match port {
            None => default_port,
            Some(port) => match port.parse() {
                Ok(port) => port,
                Err(_) => return wrong("has no port from 0 to 65535"),
            },
        };
        Ok(Self::Tcp {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Self {
        Self::Tcp {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, shown) in [
            ("node-01", "node-01:9000"),
            ("node-01:80", "node-01:80"),
            ("10.0.0.1:0", "10.0.0.1:0"),
            ("::1", "[::1]:9000"),
            ("[::1]", "[::1]:9000"),
            ("[::1]:7", "[::1]:7"),
            ("unix:/run/dwcp.sock", "unix:/run/dwcp.sock"),
            ("unix:///run/dwcp.sock", "unix:/run/dwcp.sock"),
        ] {
            assert_eq!(Address::parse(text, 9000).unwrap().to_string(), shown);
        }
        for text in [
            "", ":80", "h:", "h:70000", "h:1:2", "[::1", "[h]:1", "[::1]7", "a b", "a/b", "unix:",
        ] {
            let error = Address::parse(text, 9000).unwrap_err();
            assert!(matches!(error, DWCPError::Config(_)), "{text}: {error}");
            assert!(error.message().starts_with("address: "), "{error}");
        }
        let url = Address::parse("wss://h/", 9000).unwrap_err();
        assert!(matches!(url, DWCPError::Unsupported(_)), "{url}");
    }
}
