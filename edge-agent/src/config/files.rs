//! Settings as they are written down: the file, the files of `conf.d` beside it, and single values, laid over one another.
//!
//! What they mean is not known here.
use super::ConfigError;
use std::path::{Path, PathBuf};

pub(super) fn read_table(path: &Path) -> Result<toml::Table, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let table = text.parse::<toml::Table>();
    table.map_err(|e| ConfigError::Parse { path: path.to_owned(), problem: e.to_string().trim_end().to_owned() })
}

pub(super) fn conf_d(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = path.parent().unwrap_or(Path::new(".")).join("conf.d");
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // `/etc/redforge` is shared with the hub: only files that begin with this file's name are ours.
    let ours = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        p.extension().is_some_and(|e| e == "toml") && name.starts_with(&stem)
    };
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&dir) {
        Ok(entries) => entries.filter_map(Result::ok).map(|e| e.path()).filter(ours).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(source) => return Err(ConfigError::Read { path: dir, source }),
    };
    files.sort();
    Ok(files)
}

pub(super) fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// `RUNTIME__POOL` and a value as a table of its own. Numbers and booleans are read as such.
pub(super) fn overriding(key: &str, value: &str) -> toml::Table {
    let scalar = match (value.parse::<i64>(), value.parse::<bool>()) {
        (Ok(n), _) => toml::Value::Integer(n),
        (_, Ok(b)) => toml::Value::Boolean(b),
        _ => toml::Value::String(value.to_owned()),
    };
    let mut parts: Vec<String> = key.split("__").map(str::to_lowercase).collect();
    let last = parts.pop().unwrap_or_default();
    let mut table = toml::Table::from_iter([(last, scalar)]);
    while let Some(section) = parts.pop() {
        table = toml::Table::from_iter([(section, toml::Value::Table(table))]);
    }
    table
}
