//! Reads the API server's audit log: one line per finished request.
//!
//! A reader starts at the end of the log and returns what was added since, so
//! a story counts the requests of its own time.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde::Deserialize;

/// A finished request to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// For example `system:serviceaccount:sluice-system:sluice-operator`.
    pub user: String,
    /// For example `get`, `list`, `watch`, `patch`.
    pub verb: String,
    /// Plural; empty for a path that is no resource, such as `/readyz`.
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
    pub uri: String,
    /// HTTP status; 0 when the request ended without one.
    pub code: u16,
    /// When the response was complete; for a watch, when it ended.
    pub finished: DateTime<Utc>,
    /// When the request arrived.
    pub received: DateTime<Utc>,
}

/// A position in the audit log.
#[derive(Clone, Debug)]
pub struct Reader {
    path: PathBuf,
    offset: u64,
}

impl Reader {
    /// A reader of what is logged from now on.
    pub fn at_end(path: PathBuf) -> Self {
        let offset = path.metadata().map_or(0, |metadata| metadata.len());
        Self { path, offset }
    }

    /// A reader of the whole log.
    pub fn at_start(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// The requests logged since the last call. A line that is being written
    /// is left for the next call.
    ///
    /// # Errors
    /// When the log cannot be read or holds something else.
    pub fn read(&mut self) -> Result<Vec<Entry>> {
        let context = || format!("cannot read {}", self.path.display());
        let mut file = File::open(&self.path).with_context(context)?;
        file.seek(SeekFrom::Start(self.offset)).with_context(context)?;
        let mut reader = BufReader::new(file);
        let mut entries = Vec::new();
        let mut line = String::new();
        loop {
            line.clear();
            let length = reader.read_line(&mut line)?;
            if !line.ends_with('\n') {
                return Ok(entries);
            }
            self.offset += u64::try_from(length)?;
            entries.push(parse(&line)?);
        }
    }

    /// As [`Reader::read`], only the requests of one user.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read_of(&mut self, user: &str) -> Result<Vec<Entry>> {
        let mut entries = self.read()?;
        entries.retain(|entry| entry.user == user);
        Ok(entries)
    }
}

/// `audit.k8s.io/v1` `Event`, the fields we use.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: User,
    object_ref: Option<ObjectReference>,
    response_status: Option<Status>,
    request_received_timestamp: DateTime<Utc>,
    stage_timestamp: DateTime<Utc>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ObjectReference {
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
}

fn parse(line: &str) -> Result<Entry> {
    let event: Event = serde_json::from_str(line).with_context(|| format!("no audit event: {}", line.trim()))?;
    let object = event.object_ref.unwrap_or_default();
    Ok(Entry {
        user: event.user.username,
        verb: event.verb,
        resource: object.resource,
        subresource: object.subresource,
        namespace: object.namespace,
        name: object.name,
        uri: event.request_uri,
        code: event.response_status.map_or(0, |status| status.code),
        finished: event.stage_timestamp,
        received: event.request_received_timestamp,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const PATCH: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"1","stage":"ResponseComplete","requestURI":"/apis/apps/v1/namespaces/shop/deployments/web/scale?fieldManager=sluice","verb":"patch","user":{"username":"system:serviceaccount:sluice:operator","groups":["system:authenticated"]},"sourceIPs":["198.18.64.2"],"objectRef":{"resource":"deployments","namespace":"shop","name":"web","apiGroup":"apps","apiVersion":"v1","subresource":"scale"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-24T03:46:50.100000Z","stageTimestamp":"2026-11-24T03:46:50.110000Z","annotations":{}}"#;
    const READYZ: &str = r#"{"requestURI":"/readyz","verb":"get","user":{"username":"admin"},"responseStatus":{"metadata":{},"code":200},"requestReceivedTimestamp":"2026-11-24T03:46:51Z","stageTimestamp":"2026-11-24T03:46:51Z"}"#;

    #[test]
    fn an_event_is_read_with_its_subresource() {
        let entry = parse(PATCH).unwrap();
        assert_eq!(entry.user, "system:serviceaccount:sluice:operator");
        assert_eq!((entry.verb.as_str(), entry.code), ("patch", 200));
        assert_eq!((entry.resource.as_str(), entry.subresource.as_str()), ("deployments", "scale"));
        assert_eq!((entry.namespace.as_str(), entry.name.as_str()), ("shop", "web"));
        assert_eq!((entry.finished - entry.received).num_milliseconds(), 10);
    }

    #[test]
    fn a_path_that_is_no_resource_has_no_resource() {
        assert_eq!(parse(READYZ).unwrap().resource, "");
    }

    #[test]
    fn a_half_written_line_is_left_for_the_next_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let (half, rest) = PATCH.split_at(100);
        write!(file, "{READYZ}\n{half}").unwrap();
        let mut reader = Reader::at_start(file.path().to_owned());
        assert_eq!(reader.read().unwrap().len(), 1);
        writeln!(file, "{rest}").unwrap();
        assert_eq!(reader.read_of("admin").unwrap(), []);
        writeln!(file, "{READYZ}").unwrap();
        assert_eq!(reader.read_of("admin").unwrap().len(), 1);
    }
}
