use anyhow::Result;

#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs until it is stopped.
pub fn run(_args: Args) -> Result<()> {
    anyhow::bail!("not built yet")
}
