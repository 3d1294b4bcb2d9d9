//! The one cryptography provider of every process.

/// Makes `ring` the provider. First thing in `main`: with two linked and none chosen, rustls panics at first use.
pub fn install() {
    // Somebody was faster: then it is ring as well, the only one that is linked.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
