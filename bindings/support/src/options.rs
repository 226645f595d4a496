//! What clients and nodes are made with, as JSON: keys in snake case or camel case, durations in text
//! (`1.5s`, `500ms`). What is absent, null, empty or zero asks for nothing; what is not known is an error
//! that names it.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use dwcp::model::duration;
use dwcp::{Backend, ClientConfig, Node, NodeBuilder, NodeLimits, Role};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::failure::{Failure, Result};

/// A duration in text; empty text is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Time(Option<Duration>);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(Time(None));
        };
        if text.is_empty() {
            return Ok(Time(None));
        }
        let time =
            duration::parse(&text).map_err(|error| serde::de::Error::custom(error.message()))?;
        Ok(Time(Some(time)))
    }
}

fn read<T: DeserializeOwned>(what: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|error| Failure::argument(format!("{what}: {error}")))
}

/// Text that says something.
fn some(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// What a client is made with. See [`ClientConfig`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClientOptions {
    address: Option<String>,
    port: Option<u16>,
    #[serde(alias = "apiKey")]
    api_key: Option<String>,
    #[serde(alias = "tlsEnabled")]
    tls_enabled: Option<bool>,
    #[serde(alias = "caFile")]
    ca_file: Option<String>,
    #[serde(alias = "caPem")]
    ca_pem: Option<String>,
    #[serde(alias = "clientCert")]
    client_cert: Option<String>,
    #[serde(alias = "clientKey")]
    client_key: Option<String>,
    #[serde(alias = "serverName")]
    server_name: Option<String>,
    #[serde(alias = "connectTimeout")]
    connect_timeout: Time,
    #[serde(alias = "requestTimeout")]
    request_timeout: Time,
    #[serde(alias = "retryAttempts")]
    retry_attempts: Option<u32>,
    #[serde(alias = "retryBackoff")]
    retry_backoff: Time,
    #[serde(alias = "keepAlive")]
    keep_alive: Option<bool>,
    #[serde(alias = "keepAlivePeriod")]
    keep_alive_period: Time,
    #[serde(alias = "maxStreams")]
    max_streams: u32,
    #[serde(alias = "bufferSize")]
    buffer_size: usize,
    #[serde(alias = "poolSize")]
    pool_size: u32,
    #[serde(alias = "acceptBase")]
    accept_base: bool,
}

impl ClientOptions {
    /// Reads a JSON object.
    ///
    /// # Errors
    ///
    /// `invalid_config`, naming the field.
    pub fn from_json(json: &[u8]) -> Result<ClientOptions> {
        read("client", json)
    }
}

impl From<ClientOptions> for ClientConfig {
    fn from(options: ClientOptions) -> ClientConfig {
        let mut config = ClientConfig::new(options.address.unwrap_or_default());
        config.port = options.port.filter(|port| *port > 0);
        config.api_key = some(options.api_key);
        config.ca_file = some(options.ca_file).map(Into::into);
        config.ca_pem = some(options.ca_pem);
        config.client_cert = some(options.client_cert).map(Into::into);
        config.client_key = some(options.client_key).map(Into::into);
        config.server_name = some(options.server_name);
        config.accept_base = options.accept_base;
        let set = |field: &mut Duration, Time(time)| {
            if let Some(time) = time {
                *field = time;
            }
        };
        set(&mut config.connect_timeout, options.connect_timeout);
        set(&mut config.request_timeout, options.request_timeout);
        set(&mut config.retry_backoff, options.retry_backoff);
        set(&mut config.keep_alive_period, options.keep_alive_period);
        config.tls_enabled = options.tls_enabled.unwrap_or(config.tls_enabled);
        config.keep_alive = options.keep_alive.unwrap_or(config.keep_alive);
        config.retry_attempts = options.retry_attempts.unwrap_or(config.retry_attempts);
        if options.max_streams > 0 {
            config.max_streams = options.max_streams;
        }
        if options.buffer_size > 0 {
            config.buffer_size = options.buffer_size;
        }
        if options.pool_size > 0 {
            config.pool_size = options.pool_size;
        }
        config
    }
}

/// A key of a node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyOptions {
    #[serde(default)]
    name: Option<String>,
    key: String,
    role: String,
}

/// A peer of a node: its address, or with the key by which it knows this node.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum PeerOptions {
    Address(String),
    Known {
        address: String,
        #[serde(default)]
        credential: Option<String>,
    },
}

/// With what certificate a node serves and dials.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct TlsOptions {
    dir: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    authority: Option<String>,
}

/// What a node is made with. See [`NodeBuilder`].
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeOptions {
    name: String,
    backend: Option<String>,
    #[serde(alias = "dataDir")]
    data_dir: Option<String>,
    #[serde(alias = "diskDir")]
    disk_dir: Option<String>,
    listen: Vec<String>,
    #[serde(alias = "apiKeys")]
    api_keys: Vec<KeyOptions>,
    tls: Option<TlsOptions>,
    insecure: bool,
    peers: BTreeMap<String, PeerOptions>,
    labels: BTreeMap<String, String>,
    limits: LimitOptions,
    #[serde(alias = "defaultImage")]
    default_image: Option<String>,
    #[serde(alias = "eventRing")]
    event_ring: usize,
    #[serde(alias = "peerTimeout")]
    peer_timeout: Time,
}

/// What a node allows. See [`NodeLimits`].
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct LimitOptions {
    #[serde(alias = "maxFrame")]
    max_frame: u64,
    #[serde(alias = "maxStreams")]
    max_streams: u32,
    #[serde(alias = "maxConnections")]
    max_connections: u32,
    #[serde(alias = "maxInflight")]
    max_inflight: u32,
    #[serde(alias = "maxMemory")]
    max_memory: u64,
    #[serde(alias = "maxCpus")]
    max_cpus: u32,
    #[serde(alias = "maxVms")]
    max_vms: u32,
    #[serde(alias = "maxMigrationsOut")]
    max_migrations_out: u32,
    #[serde(alias = "maxMigrationsIn")]
    max_migrations_in: u32,
}

impl From<LimitOptions> for NodeLimits {
    fn from(options: LimitOptions) -> NodeLimits {
        let mut limits = NodeLimits::default();
        limits.max_frame = options.max_frame;
        limits.max_streams = options.max_streams;
        limits.max_connections = options.max_connections;
        limits.max_inflight = options.max_inflight;
        limits.max_memory = options.max_memory;
        limits.max_cpus = options.max_cpus;
        limits.max_vms = options.max_vms;
        limits.max_migrations_out = options.max_migrations_out;
        limits.max_migrations_in = options.max_migrations_in;
        limits
    }
}

impl NodeOptions {
    /// Reads a JSON object.
    ///
    /// # Errors
    ///
    /// `invalid_config`, naming the field.
    pub fn from_json(json: &[u8]) -> Result<NodeOptions> {
        read("node", json)
    }

    /// The builder that these options set up.
    ///
    /// # Errors
    ///
    /// `invalid_config`, naming the field.
    pub fn into_builder(self) -> Result<NodeBuilder> {
        let backend = match self.backend.as_deref().unwrap_or_default() {
            "" | "kvm" => Backend::Kvm,
            "sim" => Backend::Sim,
            other => {
                return Err(Failure::argument(format!(
                    "backend: {other:?} is neither kvm nor sim"
                )));
            }
        };
        let mut builder = Node::builder(self.name)
            .backend(backend)
            .labels(self.labels)
            .limits(self.limits.into());
        if let Some(dir) = some(self.data_dir) {
            builder = builder.data_dir(dir);
        }
        if let Some(dir) = some(self.disk_dir) {
            builder = builder.disk_dir(dir);
        }
        for address in self.listen {
            builder = builder.listen(address);
        }
        for KeyOptions { name, key, role } in self.api_keys {
            let role: Role = role.parse().map_err(Failure::from)?;
            builder = match some(name) {
                Some(name) => builder.named_key(name, key, role),
                None => builder.api_key(key, role),
            };
        }
        if let Some(tls) = self.tls {
            builder = with_tls(builder, tls)?;
        }
        if self.insecure {
            builder = builder.insecure();
        }
        for (name, peer) in self.peers {
            builder = match peer {
                PeerOptions::Address(address)
                | PeerOptions::Known {
                    address,
                    credential: None,
                } => builder.peer(name, address),
                PeerOptions::Known {
                    address,
                    credential: Some(credential),
                } => builder.peer_with_credential(name, address, credential),
            };
        }
        if let Some(image) = some(self.default_image) {
            builder = builder.default_image(image);
        }
        if self.event_ring > 0 {
            builder = builder.event_ring(self.event_ring);
        }
        if let Time(Some(timeout)) = self.peer_timeout {
            builder = builder.peer_timeout(timeout);
        }
        Ok(builder)
    }
}

fn with_tls(builder: NodeBuilder, tls: TlsOptions) -> Result<NodeBuilder> {
    let [dir, certificate, key, authority] =
        [tls.dir, tls.certificate, tls.key, tls.authority].map(some);
    match (dir, certificate, key) {
        (None, None, None) if authority.is_none() => Ok(builder),
        (Some(dir), None, None) if authority.is_none() => Ok(builder.tls_dir(dir)),
        (None, Some(certificate), Some(key)) => {
            Ok(builder.tls_files(certificate, key, authority.map(Into::into)))
        }
        _ => Err(Failure::argument(
            "tls: either dir, or certificate and key, with or without authority",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_cases_say_the_same() {
        let snake = br#"{"address":"h","api_key":"k","connect_timeout":"1.5s","max_streams":7}"#;
        let camel = br#"{"address":"h","apiKey":"k","connectTimeout":"1.5s","maxStreams":7}"#;
        let read = |json| ClientConfig::from(ClientOptions::from_json(json).unwrap());
        assert_eq!(read(snake), read(camel));
        assert_eq!(read(snake).connect_timeout, Duration::from_millis(1500));
    }

    #[test]
    fn what_says_nothing_asks_for_nothing() {
        let nothing = br#"{"port":0,"api_key":"","tls_enabled":null,"connect_timeout":"",
            "buffer_size":0,"pool_size":0,"max_streams":0}"#;
        let config = ClientConfig::from(ClientOptions::from_json(nothing).unwrap());
        assert_eq!(config, ClientConfig::default());
        let config =
            ClientConfig::from(ClientOptions::from_json(br#"{"retry_attempts":0}"#).unwrap());
        assert_eq!(config.retry_attempts, 0, "none is a number of its own");
    }

    #[test]
    fn mistakes_are_named() {
        for (json, text) in [
            (&br#"{"colour":1}"#[..], "colour"),
            (br#"{"connect_timeout":"soon"}"#, "soon"),
            (br#"{"port":70000}"#, "70000"),
        ] {
            let error = ClientOptions::from_json(json).unwrap_err();
            assert!(error.message.contains(text), "{error}");
        }
        for (json, text) in [
            (&br#"{"name":"n","backend":"xen"}"#[..], "backend"),
            (
                br#"{"name":"n","api_keys":[{"key":"long enough","role":"king"}]}"#,
                "king",
            ),
            (br#"{"name":"n","tls":{"certificate":"c"}}"#, "tls"),
        ] {
            let options = NodeOptions::from_json(json).unwrap();
            let error = options.into_builder().unwrap_err();
            assert!(error.message.contains(text), "{error}");
        }
        let error = NodeOptions::from_json(br#"{"name":"n","limits":{"max_vm":1}}"#).unwrap_err();
        assert!(error.message.contains("max_vm"), "{error}");
    }

    #[test]
    fn a_node_is_set_up_by_all_of_them() {
        let json = br#"{"name":"n","backend":"sim","dataDir":"d","diskDir":"e","listen":["127.0.0.1:0"],
            "apiKeys":[{"key":"long enough","role":"admin"},{"name":"b","key":"other key","role":"node"}],
            "tls":{"dir":"t"},"peers":{"p":"127.0.0.1:1","q":{"address":"127.0.0.1:2","credential":"k"}},
            "labels":{"a":"b"},"limits":{"maxVms":3,"maxMigrationsOut":4,"maxMigrationsIn":5},"defaultImage":"i","eventRing":5,
            "peerTimeout":"2s"}"#;
        let builder = NodeOptions::from_json(json)
            .unwrap()
            .into_builder()
            .unwrap();
        let text = format!("{builder:?}");
        for part in [
            "Sim",
            "\"d\"",
            "\"e\"",
            "127.0.0.1:0",
            "key-1",
            "\"b\"",
            "Development",
            "127.0.0.1:2",
            "max_vms: 3",
            "max_migrations_out: 4",
            "max_migrations_in: 5",
            "\"i\"",
            "event_ring: 5",
            "2s",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
