//! How a client reaches its node.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{DWCPError, Result};

/// Most connections of one client: a node would not take more from one peer.
const POOL_MAX: u32 = 1024;

/// How a client reaches its node, and how it behaves on the way.
///
/// Only `address` is required. What is not set here is taken from the environment when the client
/// connects: `DWCP_ADDRESS`, `DWCP_PORT`, `DWCP_API_KEY`, `DWCP_CA_FILE`.
///
/// # Examples
///
/// ```
/// use dwcp::ClientConfig;
///
/// let config = ClientConfig::new("localhost")
///     .with_port(9000)
///     .with_api_key("your-api-key")
///     .with_tls_enabled(true);
/// assert_eq!(config.retry_attempts, 3);
/// ```
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Host name or address of the node, or `unix:/path` for a Unix socket. Empty: from
    /// `DWCP_ADDRESS`.
    pub address: String,
    /// Port. `None`: from `DWCP_PORT`, or else [`DEFAULT_PORT`](ClientConfig::DEFAULT_PORT).
    pub port: Option<u16>,
    /// The credential. `None`: from `DWCP_API_KEY`, or else none.
    pub api_key: Option<String>,
    /// Whether the connection is encrypted. Default true; a Unix socket never is.
    pub tls_enabled: bool,
    /// File with the certificates (PEM) that the node's is checked against. `None`, and no `ca_pem`:
    /// from `DWCP_CA_FILE`, or else the platform's.
    pub ca_file: Option<PathBuf>,
    /// The same, as text.
    pub ca_pem: Option<String>,
    /// File with this client's own certificate (PEM), where the node asks for one.
    pub client_cert: Option<PathBuf>,
    /// File with the key (PEM) of `client_cert`.
    pub client_key: Option<PathBuf>,
    /// Name the node's certificate has to carry. `None`: that in `address`.
    pub server_name: Option<String>,
    /// Longest time for connecting, TLS and authentication included. Default 30 s.
    pub connect_timeout: Duration,
    /// Longest time for a request, all its tries and the pauses between them included; and for
    /// finding the node again where a stream lost it. Default 60 s.
    pub request_timeout: Duration,
    /// How often a request that failed is repeated, where that can do no harm. Default 3, so four
    /// tries.
    pub retry_attempts: u32,
    /// Pause before the first repetition; it doubles with each, with full jitter. Default 1 s.
    pub retry_backoff: Duration,
    /// Whether the node is asked now and then whether it is there, on a connection that is idle.
    /// Default true.
    pub keep_alive: bool,
    /// Silence after which it is. After two such questions without an answer the connection counts
    /// as lost. Default 30 s.
    pub keep_alive_period: Duration,
    /// Most streams of the client that are open at once. Default 100.
    pub max_streams: u32,
    /// Size of a connection's read buffer in bytes: what one read takes at most. Between 4 KiB and
    /// 4 MiB; what is outside counts as the nearer. Default 64 KiB.
    pub buffer_size: usize,
    /// Most connections to the node, made as they are needed: a further one when all others are in
    /// use. Default 1.
    pub pool_size: u32,
    /// Whether a node that speaks the base profile only will do. There are no streams then, no
    /// deadlines that the node knows of, and what makes something is not repeated when its answer is
    /// lost. Default false: such a node is refused.
    pub accept_base: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig {
            address: String::new(),
            port: None,
            api_key: None,
            tls_enabled: true,
            ca_file: None,
            ca_pem: None,
            client_cert: None,
            client_key: None,
            server_name: None,
            connect_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(60),
            retry_attempts: 3,
            retry_backoff: Duration::from_secs(1),
            keep_alive: true,
            keep_alive_period: Duration::from_secs(30),
            max_streams: 100,
            buffer_size: 64 << 10,
            pool_size: 1,
            accept_base: false,
        }
    }
}

/// Credentials do not belong into logs.
impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("address", &self.address)
            .field("port", &self.port)
            .field("api_key", &self.api_key.as_ref().map(|_| "…"))
            .field("tls_enabled", &self.tls_enabled)
            .field("ca_file", &self.ca_file)
            .field("ca_pem", &self.ca_pem.as_ref().map(|_| "…"))
            .field("client_cert", &self.client_cert)
            .field("client_key", &self.client_key)
            .field("server_name", &self.server_name)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("retry_attempts", &self.retry_attempts)
            .field("retry_backoff", &self.retry_backoff)
            .field("keep_alive", &self.keep_alive)
            .field("keep_alive_period", &self.keep_alive_period)
            .field("max_streams", &self.max_streams)
            .field("buffer_size", &self.buffer_size)
            .field("pool_size", &self.pool_size)
            .field("accept_base", &self.accept_base)
            .finish()
    }
}

/// Declares `with_*` methods.
macro_rules! with {
    ($( $(#[$doc:meta])* $method:ident($field:ident: $type:ty) => $value:expr; )+) => {
        impl ClientConfig {
            $( $(#[$doc])* #[must_use]
            pub fn $method(mut self, $field: $type) -> ClientConfig {
                self.$field = $value;
                self
            } )+
        }
    };
}

with! {
    /// Sets the address.
    with_address(address: impl Into<String>) => address.into();
    /// Sets the port.
    with_port(port: u16) => Some(port);
    /// Sets the credential.
    with_api_key(api_key: impl Into<String>) => Some(api_key.into());
    /// Sets whether the connection is encrypted.
    with_tls_enabled(tls_enabled: bool) => tls_enabled;
    /// Sets the file with the certificates the node's is checked against.
    with_ca_file(ca_file: impl Into<PathBuf>) => Some(ca_file.into());
    /// Sets the certificates the node's is checked against.
    with_ca_pem(ca_pem: impl Into<String>) => Some(ca_pem.into());
    /// Sets the file with this client's own certificate.
    with_client_cert(client_cert: impl Into<PathBuf>) => Some(client_cert.into());
    /// Sets the file with the key of this client's certificate.
    with_client_key(client_key: impl Into<PathBuf>) => Some(client_key.into());
    /// Sets the name the node's certificate has to carry.
    with_server_name(server_name: impl Into<String>) => Some(server_name.into());
    /// Sets the longest time for connecting.
    with_connect_timeout(connect_timeout: Duration) => connect_timeout;
    /// Sets the longest time for a request.
    with_request_timeout(request_timeout: Duration) => request_timeout;
    /// Sets how often a request that failed is repeated.
    with_retry_attempts(retry_attempts: u32) => retry_attempts;
    /// Sets the pause before the first repetition.
    with_retry_backoff(retry_backoff: Duration) => retry_backoff;
    /// Sets whether an idle connection is kept alive.
    with_keep_alive(keep_alive: bool) => keep_alive;
    /// Sets the silence after which it is.
    with_keep_alive_period(keep_alive_period: Duration) => keep_alive_period;
    /// Sets the most streams open at once.
    with_max_streams(max_streams: u32) => max_streams;
    /// Sets the size of a connection's buffers in bytes.
    with_buffer_size(buffer_size: usize) => buffer_size;
    /// Sets how many connections are kept.
    with_pool_size(pool_size: u32) => pool_size;
    /// Sets whether a node of the base profile will do.
    with_accept_base(accept_base: bool) => accept_base;
}

impl ClientConfig {
    /// The port where none is named.
    pub const DEFAULT_PORT: u16 = 9000;

    /// The defaults, with an address.
    pub fn new(address: impl Into<String>) -> ClientConfig {
        ClientConfig::default().with_address(address)
    }

    /// The defaults, with what the environment says.
    ///
    /// # Errors
    ///
    /// As [`fill_from_env`](ClientConfig::fill_from_env).
    pub fn from_env() -> Result<ClientConfig> {
        ClientConfig::default().fill_from_env()
    }

    /// Fills what is not set from `DWCP_ADDRESS`, `DWCP_PORT`, `DWCP_API_KEY` and `DWCP_CA_FILE`;
    /// an empty variable says nothing. [`Client::new`](crate::Client::new) does it too.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] for a variable that is needed and cannot be read.
    pub fn fill_from_env(self) -> Result<ClientConfig> {
        self.fill(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(DWCPError::Config(format!("{name}: is not UTF-8")))
            }
        })
    }

    fn fill(mut self, read: impl Fn(&str) -> Result<Option<String>>) -> Result<ClientConfig> {
        let read = |name| Ok::<_, DWCPError>(read(name)?.filter(|value| !value.is_empty()));
        if self.address.is_empty() {
            self.address = read("DWCP_ADDRESS")?.unwrap_or_default();
        }
        if self.port.is_none()
            && let Some(port) = read("DWCP_PORT")?
        {
            let port = port.parse().ok().filter(|&port: &u16| port > 0);
            self.port = Some(port.ok_or_else(|| {
                DWCPError::Config("DWCP_PORT: must be a number from 1 to 65535".into())
            })?);
        }
        if self.api_key.is_none() {
            self.api_key = read("DWCP_API_KEY")?;
        }
        if self.ca_file.is_none() && self.ca_pem.is_none() {
            self.ca_file = read("DWCP_CA_FILE")?.map(PathBuf::from);
        }
        Ok(self)
    }

    /// The port that counts.
    #[must_use]
    pub fn effective_port(&self) -> u16 {
        self.port.unwrap_or(Self::DEFAULT_PORT)
    }

    /// Checks what can be checked without connecting.
    ///
    /// # Errors
    ///
    /// [`DWCPError::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let wrong = |text: &str| Err(DWCPError::Config(text.to_owned()));
        if self.address.is_empty() {
            return wrong("address: is required (or DWCP_ADDRESS)");
        }
        if self.port == Some(0) {
            return wrong("port: must be 1 to 65535");
        }
        if self.ca_file.is_some() && self.ca_pem.is_some() {
            return wrong("ca_file: not together with ca_pem");
        }
        if self.client_cert.is_some() != self.client_key.is_some() {
            return wrong("client_cert: only together with client_key");
        }
        if self.pool_size == 0 {
            return wrong("pool_size: must be at least 1");
        }
        if self.pool_size > POOL_MAX {
            return wrong("pool_size: must be at most 1024");
        }
        if self.max_streams == 0 {
            return wrong("max_streams: must be at least 1");
        }
        if self.keep_alive && self.keep_alive_period.is_zero() {
            return wrong("keep_alive_period: must not be zero");
        }
        Ok(())
    }

    /// Where it leads, for messages.
    pub(super) fn target(&self) -> String {
        if self.address.starts_with("unix:") || self.address.contains("://") {
            self.address.clone()
        } else {
            format!("{}:{}", self.address, self.effective_port())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Result<Option<String>> {
        Ok(match name {
            "DWCP_ADDRESS" => Some("from-env".into()),
            "DWCP_PORT" => Some("9100".into()),
            "DWCP_API_KEY" => Some("secret".into()),
            "DWCP_CA_FILE" => Some("/ca.pem".into()),
            _ => None,
        })
    }

    #[test]
    fn the_environment_fills_what_is_not_set() {
        let config = ClientConfig::default().fill(environment).unwrap();
        assert_eq!(
            (config.address.as_str(), config.effective_port()),
            ("from-env", 9100)
        );
        assert_eq!(config.api_key.as_deref(), Some("secret"));
        assert_eq!(config.ca_file, Some(PathBuf::from("/ca.pem")));

        let own = ClientConfig::new("here")
            .with_port(9000)
            .with_api_key("mine")
            .with_ca_pem("-----");
        assert_eq!(own.clone().fill(environment).unwrap(), own);
        assert_eq!(
            own.clone().fill(|_| Ok(Some(String::new()))).unwrap(),
            own,
            "an empty variable says nothing"
        );
        let error = ClientConfig::default().fill(|_| Ok(Some("x".into())));
        assert!(error.unwrap_err().message().starts_with("DWCP_PORT:"));
    }

    #[test]
    fn mistakes_are_named() {
        let ok = || ClientConfig::new("localhost");
        assert_eq!(ok().validate(), Ok(()));
        for (config, field) in [
            (ClientConfig::default(), "address"),
            (ok().with_port(0), "port"),
            (ok().with_ca_file("a").with_ca_pem("b"), "ca_file"),
            (ok().with_client_cert("a"), "client_cert"),
            (ok().with_pool_size(0), "pool_size"),
            (ok().with_pool_size(1025), "pool_size"),
            (
                ok().with_keep_alive_period(Duration::ZERO),
                "keep_alive_period",
            ),
            (ok().with_max_streams(0), "max_streams"),
        ] {
            let error = config.validate().unwrap_err();
            assert!(error.message().starts_with(&format!("{field}:")), "{error}");
        }
    }

    #[test]
    fn credentials_are_not_printed() {
        let config = ClientConfig::new("h").with_api_key("secret");
        assert!(!format!("{config:?}").contains("secret"));
        assert!(format!("{config:?}").contains("api_key"));
    }

    #[test]
    fn the_target_is_as_people_write_it() {
        assert_eq!(ClientConfig::new("h").target(), "h:9000");
        assert_eq!(ClientConfig::new("unix:/s").target(), "unix:/s");
    }
}
