//! Container images without Docker: one static binary in an otherwise empty
//! image, written as an archive and imported into the cluster's containerd.
//!
//! Order: what to build ([`build_static`]), what an image is ([`Image`]), how
//! it is written ([`Image::archive`]) and imported ([`Image::load`]). An
//! archive is in the format of `docker save`, which containerd, kind and k3d
//! read, and its bytes depend on the content alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::cluster::binaries::hex;
use crate::cluster::layout::{CONTAINERD_SOCKET, RUN};
use crate::cluster::network::outside;
use crate::cluster::{process, progress};

/// The user that runs in an image unless the pod says otherwise.
const NONROOT: &str = "65532:65532";
const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\n\
    nonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";

/// Compiles a binary of the workspace so that it runs in an empty image, and
/// returns its path. Cargo decides whether there is anything to do.
///
/// # Errors
/// When the build fails; Cargo's output went to the terminal.
pub fn build_static(package: &str, binary: &str) -> Result<PathBuf> {
    let what = format!("compiling {binary} for its image");
    progress(&what);
    let target_folder = target_folder();
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let child = outside(std::env::var_os("CARGO").map_or("cargo".into(), PathBuf::from))
        .args(["build", "--quiet", "--release", "--target", &target])
        .args(["-p", package, "--bin", binary, "--target-dir"])
        .arg(&target_folder)
        .current_dir(workspace())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .spawn()
        .context("cannot run cargo")?;
    if !process::wait_with_progress(child, &what)?.success() {
        bail!("cannot compile {binary} of package {package}");
    }
    Ok(target_folder.join(target).join("release").join(binary))
}

fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Apart from the usual one, so that the two do not undo each other's flags.
fn target_folder() -> PathBuf {
    let base = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    base.unwrap_or_else(|| workspace().join("target")).join("image")
}

/// An image to be: a name and what is in it.
#[derive(Clone, Debug)]
pub struct Image {
    /// With tag, for example `sluice.dev/sample-app:v2`.
    pub name: String,
    /// The program, which becomes `/<file name>` and the entry point.
    pub binary: PathBuf,
    /// `NAME=value`, baked in: how tags of one binary differ.
    pub environment: Vec<String>,
}

impl Image {
    pub fn new(name: impl Into<String>, binary: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), binary: binary.into(), environment: Vec::new() }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.environment.push(format!("{name}={value}"));
        self
    }

    /// Imports the image into the local cluster; one with the same content
    /// that is there already is left alone.
    ///
    /// # Errors
    /// When the binary cannot be read or the import fails.
    pub fn load(&self) -> Result<()> {
        let parts = self.parts()?;
        let marker = Path::new(RUN).join("images").join(self.name.replace(['/', ':'], "_"));
        if fs::read_to_string(&marker).is_ok_and(|digest| digest == parts.digest) {
            return Ok(());
        }
        let file = tempfile::Builder::new().suffix(".tar").tempfile()?;
        fs::write(file.path(), self.pack(&parts)?)?;
        process::run(ctr().args(["images", "import"]).arg(file.path()))
            .with_context(|| format!("cannot import image {}", self.name))?;
        fs::create_dir_all(Path::new(RUN).join("images"))?;
        fs::write(&marker, &parts.digest)?;
        Ok(())
    }

    /// The image as an archive for `docker load`, `kind load image-archive`
    /// or `k3d image import`.
    ///
    /// # Errors
    /// When the binary cannot be read.
    pub fn archive(&self) -> Result<Vec<u8>> {
        self.pack(&self.parts()?)
    }

    /// SHA-256 of its configuration, in hex: the same for the same content.
    ///
    /// # Errors
    /// When the binary cannot be read.
    pub fn digest(&self) -> Result<String> {
        Ok(self.parts()?.digest)
    }

    fn parts(&self) -> Result<Parts> {
        let bytes = fs::read(&self.binary).with_context(|| format!("cannot read {}", self.binary.display()))?;
        let file = self.binary.file_name().and_then(|name| name.to_str());
        let file = file.with_context(|| format!("{} is no file", self.binary.display()))?;
        let mut layer = Tar::default();
        layer.folder("etc", 0o755)?;
        layer.file("etc/passwd", PASSWD.as_bytes(), 0o644)?;
        layer.folder("tmp", 0o1777)?;
        layer.file(file, &bytes, 0o755)?;
        let layer = layer.finish();
        let config = self.config(file, &layer)?;
        Ok(Parts { digest: hex(&Sha256::digest(&config)), config, layer })
    }

    /// OCI image configuration (image-spec v1.1, "Image Configuration").
    fn config(&self, file: &str, layer: &[u8]) -> Result<Vec<u8>> {
        let mut environment = vec!["PATH=/".to_owned()];
        environment.extend(self.environment.iter().cloned());
        Ok(serde_json::to_vec(&serde_json::json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": [format!("/{file}")], "Env": environment, "User": NONROOT},
            "rootfs": {
                "type": "layers",
                "diff_ids": [format!("sha256:{}", hex(&Sha256::digest(layer)))],
            },
        }))?)
    }

    fn pack(&self, parts: &Parts) -> Result<Vec<u8>> {
        let config_name = format!("{}.json", parts.digest);
        let manifest = serde_json::json!([{
            "Config": config_name,
            "RepoTags": [self.name],
            "Layers": ["layer.tar"],
        }]);
        let mut archive = Tar::default();
        archive.file(&config_name, &parts.config, 0o644)?;
        archive.file("layer.tar", &parts.layer, 0o644)?;
        archive.file("manifest.json", &serde_json::to_vec(&manifest)?, 0o644)?;
        Ok(archive.finish())
    }
}

/// The machine's, by the name that Go and so every registry gives it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

struct Parts {
    config: Vec<u8>,
    layer: Vec<u8>,
    /// Of the configuration, and by it of everything.
    digest: String,
}

fn ctr() -> Command {
    let mut command = Command::new("ctr");
    command.args(["--address", CONTAINERD_SOCKET, "-n", "k8s.io"]);
    command
}

/// A tar archive in the making (POSIX.1-1988 "ustar"), all times zero.
#[derive(Default)]
struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    const BLOCK: usize = 512;

    fn folder(&mut self, name: &str, mode: u32) -> Result<()> {
        self.header(&format!("{name}/"), b'5', mode, 0)
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        self.header(name, b'0', mode, content.len())?;
        self.bytes.extend_from_slice(content);
        let padded = self.bytes.len().next_multiple_of(Self::BLOCK);
        self.bytes.resize(padded, 0);
        Ok(())
    }

    fn header(&mut self, name: &str, kind: u8, mode: u32, size: usize) -> Result<()> {
        let mut header = [0u8; Self::BLOCK];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        if name.len() > 100 {
            bail!("{name} is too long for a tar header");
        }
        put(0, name);
        put(100, &format!("{mode:07o}\0"));
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{size:011o}\0"));
        put(136, "00000000000\0");
        // The checksum counts its own field as spaces.
        put(148, "        ");
        put(257, "ustar\u{0}00");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        Ok(())
    }

    /// Two empty blocks end an archive.
    fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 2 * Self::BLOCK]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_by_tar() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("app");
        fs::write(&binary, "#!").unwrap();
        let image = Image::new("sluice.dev/app:v1", &binary).with_env("ERRORS", "0.05");
        let path = folder.path().join("image.tar");
        fs::write(&path, image.archive().unwrap()).unwrap();
        let listed = process::output(Command::new("tar").arg("-tf").arg(&path)).unwrap();
        assert!(listed.contains("layer.tar\nmanifest.json\n"), "{listed}");
    }

    #[test]
    fn tags_of_one_binary_differ_by_their_environment() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("app");
        fs::write(&binary, "#!").unwrap();
        let good = Image::new("sluice.dev/app:v1", &binary);
        let bad = good.clone().with_env("ERRORS", "0.05");
        assert_ne!(good.parts().unwrap().digest, bad.parts().unwrap().digest);
        assert_eq!(good.parts().unwrap().digest, good.parts().unwrap().digest);
    }
}
