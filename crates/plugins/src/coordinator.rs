//! The `coordinator` plugin.

use wire::cni::{Call, CniError, CniResult, code};

use crate::Plugin;

/// The `coordinator` plugin.
pub struct Coordinator;

fn absent<T>(call: &Call) -> Result<T, CniError> {
    Err(CniError::new(code::NOT_AVAILABLE, format!("coordinator: {} is not there yet", call.env.command)))
}

impl Plugin for Coordinator {
    fn add(&self, call: &Call) -> Result<CniResult, CniError> {
        absent(call)
    }

    fn del(&self, call: &Call) -> Result<(), CniError> {
        absent(call)
    }

    fn check(&self, call: &Call) -> Result<(), CniError> {
        absent(call)
    }

    fn gc(&self, call: &Call) -> Result<(), CniError> {
        absent(call)
    }

    fn status(&self, call: &Call) -> Result<(), CniError> {
        absent(call)
    }
}
