//! Where the program is that an example runs.

use std::error::Error;
use std::path::PathBuf;

/// The `fanout` beside this example: an example stands beside the program it belongs to.
pub fn beside() -> Result<PathBuf, Box<dyn Error + Send + Sync>> {
    let example = std::env::current_exe()?;
    let directory = example.ancestors().nth(2).ok_or("no directory")?;
    Ok(directory.join("fanout"))
}
