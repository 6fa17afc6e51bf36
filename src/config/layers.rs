//! One source laid over another, key by key.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::ConfigError;
use super::values::parse_size;

/// A configuration that can be layered.
pub(super) trait Layered: Serialize + DeserializeOwned {
    /// Whether a variable of [`VARIABLES`] concerns this kind of configuration.
    fn knows(key: &str) -> bool;

    /// Whether all values are in their ranges.
    fn check(&self) -> Result<(), ConfigError>;
}

/// How a variable's text becomes a value.
#[derive(Clone, Copy)]
enum As {
    Text,
    List,
    Number,
    Size,
    Switch,
}

/// The variables, how they are read, and the keys they set.
const VARIABLES: [(&str, As, &[&str]); 14] = [
    ("RDMA_RPC_TARGET", As::Text, &["target"]),
    ("RDMA_RPC_LISTEN", As::List, &["listen"]),
    ("RDMA_RPC_TRANSPORTS", As::List, &["transports"]),
    ("RDMA_RPC_CONNECT_TIMEOUT_MS", As::Number, &["connect_timeout_ms"]),
    ("RDMA_RPC_HANDSHAKE_TIMEOUT_MS", As::Number, &["handshake_timeout_ms"]),
    ("RDMA_RPC_WORKERS", As::Number, &["workers"]),
    ("RDMA_RPC_PIN_WORKERS", As::Switch, &["pin_workers"]),
    ("RDMA_RPC_MAX_MESSAGE_BYTES", As::Size, &["limits.max_message_bytes"]),
    ("RDMA_RPC_MAX_SEND_MESSAGE_BYTES", As::Size, &["limits.max_send_message_bytes"]),
    ("RDMA_RPC_LOCAL_ADDRESS", As::Text, &["tcp.local_address"]),
    ("RDMA_RPC_DEVICE", As::Text, &["rdma.device"]),
    ("RDMA_RPC_PROGRESS", As::Text, &["rdma.progress", "shm.progress", "tcp.progress"]),
    ("RDMA_RPC_SPIN_US", As::Number, &["rdma.spin_us", "shm.spin_us", "tcp.spin_us"]),
    ("RDMA_RPC_DIRECT_READS", As::Switch, &["shm.direct_reads"]),
];

/// Names the file to lay over the code's values.
const CONFIG_VARIABLE: &str = "RDMA_RPC_CONFIG";

/// `base`, then the file named in the environment, then the rest of the environment.
pub(super) fn resolve<C: Layered>(
    base: C,
    variable: &dyn Fn(&str) -> Result<Option<String>, ConfigError>,
) -> Result<C, ConfigError> {
    base.check()?;
    let mut config = base;
    if let Some(path) = variable(CONFIG_VARIABLE)? {
        config = over_file(config, Path::new(&path))?;
    }
    for (name, how, keys) in VARIABLES {
        if !keys.iter().all(|key| C::knows(key)) {
            continue;
        }
        if let Some(text) = variable(name)? {
            let fail = |error: ConfigError| error.with_source(name);
            let value = value_of(&text, how).map_err(fail)?;
            let mut overlay = Table::new();
            for key in keys {
                set(&mut overlay, key, value.clone());
            }
            config = over(config, overlay).map_err(fail)?;
            config.check().map_err(fail)?;
        }
    }
    Ok(config)
}

/// A variable of the process; empty ones count as not set.
pub(super) fn process_variable(name: &str) -> Result<Option<String>, ConfigError> {
    match std::env::var(name) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(std::env::VarError::NotPresent) => Ok(None),
        Err(std::env::VarError::NotUnicode(_)) => {
            Err(ConfigError::new("the value is not UTF-8").with_source(name))
        }
    }
}

/// The file's keys over `base`.
pub(super) fn over_file<C: Layered>(base: C, path: &Path) -> Result<C, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConfigError::new(format!("cannot read the file: {error}")).with_source(&name)
    })?;
    over_text(base, &text).map_err(|error| error.with_source(name))
}

/// The text's keys over `base`.
pub(super) fn over_text<C: Layered>(base: C, text: &str) -> Result<C, ConfigError> {
    let explain = |error: toml::de::Error| {
        let at = error.span().map(|span| span.start.min(text.len()));
        let line = at.map(|at| text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count() + 1);
        let told = ConfigError::new(error.message()).with_line(line);
        match line.and_then(|line| key_at(text, line)) {
            Some(key) => told.with_key(key),
            None => told,
        }
    };
    // Once by itself: only this way do errors know their line.
    toml::from_str::<C>(text).map_err(explain)?;
    let overlay: Table = toml::from_str(text).map_err(explain)?;
    let config = over(base, overlay)?;
    config.check().map_err(|error| {
        let line = error.key().and_then(|key| line_of(text, key));
        error.with_line(line)
    })?;
    Ok(config)
}

fn over<C: Layered>(base: C, overlay: Table) -> Result<C, ConfigError> {
    let mut merged = Table::try_from(&base).map_err(|error| ConfigError::new(error.to_string()))?;
    merge(&mut merged, overlay);
    merged.try_into().map_err(|error: toml::de::Error| ConfigError::new(error.message()))
}

fn merge(base: &mut Table, overlay: Table) {
    for (key, value) in overlay {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Sets `section.key` or `key`.
fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            table.insert(key.to_string(), value);
        }
        Some((section, key)) => {
            let section =
                table.entry(section.to_string()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(key.to_string(), value);
            }
        }
    }
}

fn value_of(text: &str, how: As) -> Result<Value, ConfigError> {
    let text = text.trim();
    match how {
        As::Text => Ok(Value::String(text.to_string())),
        As::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_string())).collect()))
        }
        As::Number => text
            .parse::<u32>()
            .map(|number| Value::Integer(i64::from(number)))
            .map_err(|_| ConfigError::new(format!("{text:?} is not a whole number"))),
        As::Switch => text.parse().map(Value::Boolean).map_err(|_| {
            ConfigError::new(format!("{text:?} is not a switch: write true or false"))
        }),
        As::Size => {
            parse_size(text).map(|bytes| Value::Integer(bytes as i64)).map_err(ConfigError::new)
        }
    }
}

/// Each line that sets a key: its number and the whole key.
fn keys(text: &str) -> impl Iterator<Item = (usize, String)> + '_ {
    let mut section = String::new();
    text.lines().enumerate().filter_map(move |(number, line)| {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix('[') {
            section = rest.split(']').next().unwrap_or("").trim().to_string();
            return None;
        }
        if line.starts_with('#') {
            return None;
        }
        let key = line.split_once('=')?.0.trim();
        let whole = if section.is_empty() { key.to_string() } else { format!("{section}.{key}") };
        Some((number + 1, whole))
    })
}

fn key_at(text: &str, line: usize) -> Option<String> {
    keys(text).find(|(number, _)| *number == line).map(|(_, key)| key)
}

fn line_of(text: &str, key: &str) -> Option<usize> {
    keys(text).find(|(_, found)| found == key).map(|(number, _)| number)
}
