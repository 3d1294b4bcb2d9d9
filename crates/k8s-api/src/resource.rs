//! What every custom resource has in common: its names, its place in the API, and how it is written.
//!
//! `kube-derive` is not used: it insists on a required `spec`, while `SpiderEndpoint` has none and upstream accepts
//! the other kinds without one, and it marks optional fields `nullable`, which upstream's schemas do not.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

/// A kind that is defined by a CRD of this crate.
pub trait CustomResource: kube_core::Resource<DynamicType = ()> {
    /// The kind's definition as it is shipped in the chart.
    fn definition() -> CustomResourceDefinition;
}

/// Declares the struct of a kind: metadata plus the parts named, `Resource`, (de)serialisation with `apiVersion` and
/// `kind`, and a constructor. A part that is absent in a stored object reads as its default.
macro_rules! custom_resource {
    (
        $(#[$doc:meta])*
        $name:ident($group:expr, $version:expr, $plural:literal, $scope:ident)
        $(, spec: $spec:ty)?
        $(, status: $status:ty)?
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
        pub struct $name {
            /// Standard object metadata.
            #[serde(default)]
            pub metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
            $(
                /// The desired state.
                #[serde(default)]
                pub spec: $spec,
            )?
            $(
                /// The observed state.
                #[serde(default)]
                pub status: Option<$status>,
            )?
        }

        impl $name {
            /// The kind as it stands in an object's `kind`.
            pub const KIND: &'static str = stringify!($name);
            /// The plural name, as it stands in URLs.
            pub const PLURAL: &'static str = $plural;

            $(
                /// A new object of that name with that spec.
                pub fn new(name: &str, spec: $spec) -> Self {
                    let mut object = Self { spec, ..Self::default() };
                    object.metadata.name = Some(name.to_owned());
                    object
                }
            )?
        }

        impl kube_core::Resource for $name {
            type DynamicType = ();
            type Scope = k8s_openapi::$scope;

            fn kind(_: &()) -> std::borrow::Cow<'_, str> {
                stringify!($name).into()
            }
            fn group(_: &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }
            fn version(_: &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }
            fn plural(_: &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }
            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                use serde::ser::SerializeMap as _;
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("apiVersion", &format!("{}/{}", $group, $version))?;
                map.serialize_entry("kind", stringify!($name))?;
                map.serialize_entry("metadata", &self.metadata)?;
                $(
                    let spec: &$spec = &self.spec;
                    map.serialize_entry("spec", spec)?;
                )?
                $(
                    let status: Option<&$status> = self.status.as_ref();
                    if let Some(status) = status {
                        map.serialize_entry("status", status)?;
                    }
                )?
                map.end()
            }
        }
    };
}
pub(crate) use custom_resource;
