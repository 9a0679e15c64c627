//! What the parts of the cluster have printed, and how it is kept when a
//! story fails.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{kubectl, layout};

/// The objects that tell why a story failed.
const OBJECTS: &str = "canaries,metrictemplates,alertproviders,proxypools,deployments,replicasets,pods,services,\
    endpointslices,events,configmaps,leases";

/// What a part has printed. `audit` is the API server's audit log.
///
/// # Errors
/// When there is no such log.
pub fn read(part: &str) -> Result<String> {
    let path = match part {
        "audit" => layout::audit_log(),
        part => layout::log(part),
    };
    fs::read_to_string(&path).with_context(|| format!("there is no log {}", path.display()))
}

pub(super) fn save(folder: &Path) -> Result<()> {
    copy(&layout::state("logs"), &folder.join("cluster"))?;
    copy(&layout::state("pod-logs"), &folder.join("pods"))?;
    for object in OBJECTS.split(',').map(str::trim) {
        let output = kubectl().args(["get", object, "--all-namespaces", "--output=yaml"]).output()?;
        if output.status.success() {
            fs::write(folder.join(format!("{object}.yaml")), output.stdout)?;
        }
    }
    Ok(())
}

/// Copies a folder; what vanishes meanwhile is left out.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let Ok(entries) = fs::read_dir(from) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            let _ = fs::copy(entry.path(), &target);
        }
    }
    Ok(())
}
