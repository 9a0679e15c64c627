//! The last configuration on disk: one file, replaced whole, so that a reader sees the old or the new one.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use prost::Message as _;
use proxy_api::v1beta1::Snapshot;

const FILE: &str = "snapshot";
/// Larger files are not read: 2,000 routes with 50 endpoints each are about 5 MiB.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Why the state cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// From the file system.
    #[error("cannot access {path}")]
    Io {
        /// What was accessed.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Not a snapshot, or cut short.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        #[source]
        source: prost::DecodeError,
    },
}

/// What was last written; `None` if nothing was.
///
/// # Errors
/// When there is something that cannot be read.
pub fn read(directory: &Path) -> Result<Option<Snapshot>, StateError> {
    let path = directory.join(FILE);
    let io = |source| StateError::Io { path: path.clone(), source };
    let bytes = match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(io(io::ErrorKind::FileTooLarge.into())),
        Ok(_) => fs::read(&path).map_err(io)?,
    };
    Snapshot::decode(bytes.as_slice()).map(Some).map_err(|source| StateError::Damaged { path, source })
}

/// Replaces what was written before.
///
/// # Errors
/// When the directory cannot be written to; what was there before stays.
pub fn write(directory: &Path, snapshot: &Snapshot) -> Result<(), StateError> {
    let (path, temporary) = (directory.join(FILE), directory.join(format!("{FILE}.new")));
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(&snapshot.encode_to_vec())?;
        file.sync_data()?;
        fs::rename(&temporary, &path)
    });
    written.map_err(|source| StateError::Io { path: temporary, source })
}

#[cfg(test)]
mod tests {
    use proxy_api::v1beta1::Route;

    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(directory.path()).unwrap().is_none());
        for counter in [1, 2] {
            let snapshot =
                Snapshot { routes: vec![Route { uid: "a".into(), counter, ..Default::default() }], limits: None };
            write(directory.path(), &snapshot).unwrap();
            assert_eq!(read(directory.path()).unwrap(), Some(snapshot));
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), b"\xff\xff\xff").unwrap();
        assert!(read(directory.path()).unwrap_err().to_string().ends_with("snapshot is damaged"));
    }
}
