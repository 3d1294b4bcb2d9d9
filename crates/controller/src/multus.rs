//! SpiderMultusConfig: admission rules, and the NetworkAttachmentDefinition each config stands for.
//!
//! [`network`], [`defaults`] and [`rules`] are pure; [`reconcile`] keeps the definitions in the API as they should be.

pub mod defaults;
mod go_json;
pub mod network;
pub mod reconcile;
pub mod rules;
