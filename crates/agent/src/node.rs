//! What the agent's image does to the node beside serving it: plugin files, the meta plugin's configuration, and their removal.
//!
//! | question | answer |
//! |---|---|
//! | how a file gets its place without a moment in which it is missing or half | [`mod@file`] |
//! | which plugins go where, and what is left alone | [`install`], [`ledger`] |
//! | which network is the cluster's default | [`default_network`] |
//! | what Multus and multinet are told | [`meta`], [`kubeconfig`] |
//! | when it is written, and when written anew | [`follow`] |
//! | what is taken away again, and when | [`uninstall`], [`removal`] |
//!
//! Everything here needs the node's folders only; nothing talks to the agent's socket.

pub mod default_network;
pub mod file;
pub mod follow;
pub mod install;
pub mod kubeconfig;
pub mod ledger;
pub mod meta;
pub mod removal;
pub mod uninstall;
