//! Admission rules (upstream's contract: ipam, §10): what a webhook changes in an object and why it refuses one.
//!
//! Specs are plain structures with the JSON names of the CRDs, so that webhook, controller and command line check by the
//! same rules. Rules return [`FieldError`]s; they never look at a cluster: other pools are arguments.

mod network;
mod pool;
mod reserved;
mod spec;
mod subnet;

use std::fmt;

pub use pool::{Peer, PoolContext, Used, mutate_pool, validate_pool_create, validate_pool_update};
pub use reserved::{mutate_reserved, validate_reserved_create, validate_reserved_update};
pub use spec::{
    FINALIZER, LABEL_POOL_CIDR, LABEL_POOL_OWNER_SUBNET, LABEL_SUBNET_CIDR, Mutation, PoolSpec, ReservedSpec,
    SubnetSpec, Warning,
};
pub use subnet::{OwnerSubnet, SubnetContext, mutate_subnet, validate_subnet_create, validate_subnet_update};

use crate::family::Family;

/// The families that are enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// `enableIPv4`.
    pub ipv4: bool,
    /// `enableIPv6`.
    pub ipv6: bool,
}

impl Enabled {
    /// Both.
    pub const BOTH: Self = Self { ipv4: true, ipv6: true };

    /// Whether `family` is enabled.
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }
}

/// The kind of a field error, named as the API server names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueRequired`
    Required,
}

impl ErrorKind {
    /// The `reason` of a cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Forbidden => "FieldValueForbidden",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Required => "FieldValueRequired",
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path, like `spec.routes[1].gw`.
    pub field: String,
    /// Kind.
    pub kind: ErrorKind,
    /// The bad value as JSON text, for kinds that show one.
    pub value: Option<String>,
    /// What is wrong.
    pub text: String,
}

impl FieldError {
    /// The value is wrong.
    pub fn invalid(field: impl Into<String>, value: &impl serde::Serialize, text: impl Into<String>) -> Self {
        Self { field: field.into(), kind: ErrorKind::Invalid, value: json(value), text: text.into() }
    }

    /// The value is not one of those supported.
    pub fn not_supported(field: impl Into<String>, value: &impl serde::Serialize, supported: &str) -> Self {
        let text = format!("supported values: {supported}");
        Self { field: field.into(), kind: ErrorKind::NotSupported, value: json(value), text }
    }

    /// The field may not be what it is.
    pub fn forbidden(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self { field: field.into(), kind: ErrorKind::Forbidden, value: None, text: text.into() }
    }

    /// The field is missing.
    pub fn required(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self { field: field.into(), kind: ErrorKind::Required, value: None, text: text.into() }
    }

    /// The text of a cause in a Status: as [`fmt::Display`], without the field path.
    pub fn cause(&self) -> String {
        let kind = match self.kind {
            ErrorKind::Invalid => "Invalid value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Required => "Required value",
        };
        match &self.value {
            Some(value) => format!("{kind}: {value}: {}", self.text),
            None => format!("{kind}: {}", self.text),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.cause())
    }
}

fn json(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_string(value).ok()
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 422 with field errors.
    Invalid(Vec<FieldError>),
    /// 409: an object of that name exists.
    AlreadyExists,
    /// 403 with a text.
    Forbidden(String),
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::Invalid(vec![error])
    }
}
