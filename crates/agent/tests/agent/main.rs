//! The agent against the embedded API server, by its real socket.

mod add;
mod crowd;
mod faults;
mod process;
mod release;
mod views;
mod wire_format;
mod world;
