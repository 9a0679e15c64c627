//! Writes the definitions to `crds/yaml` and to the chart.

#![allow(clippy::disallowed_methods, reason = "writing files is what this program is for; the ban is for the library")]

use std::{fs, io, path::Path};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in [root.join("yaml"), root.join("../charts/sluice/files/crds")] {
        fs::create_dir_all(&folder)?;
        for (file, definition) in crds::definitions() {
            fs::write(folder.join(file), crds::rendered(&definition))?;
        }
    }
    Ok(())
}
