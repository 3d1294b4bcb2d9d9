//! The `spiderpool` plugin.

use wire::cni::{Call, CniError, CniResult, code};

use crate::Plugin;

/// The `spiderpool` plugin.
pub struct Spiderpool;

fn absent<T>(call: &Call) -> Result<T, CniError> {
    Err(CniError::new(code::NOT_AVAILABLE, format!("spiderpool: {} is not there yet", call.env.command)))
}

impl Plugin for Spiderpool {
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
