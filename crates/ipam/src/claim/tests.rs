//! The protocol in a deterministic world.

mod protocol;
mod simulation;
mod world;
