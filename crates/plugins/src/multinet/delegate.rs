//! A network that a pod is attached to, run plugin by plugin as a runtime does (CNI specification, section 3).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wire::agent::{Network, Selection};
use wire::cni::{CniError, CniResult, Command, SpecVersion, code, parse_json};

use super::cache::Entry;
use super::exec::Invocation;
use super::{doing, object};

/// A list of plugin configurations with name and version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NetworkList {
    name: String,
    version: String,
    #[serde(default)]
    disable_check: bool,
    #[serde(default)]
    disable_gc: bool,
    plugins: Vec<Map<String, Value>>,
}

impl NetworkList {
    /// Parses a configuration list, or a single configuration as a list of one. What has no name or version gets those
    /// given.
    pub fn parse(what: &str, text: &[u8], name: &str, version: SpecVersion) -> Result<Self, CniError> {
        let mut whole: Map<String, Value> = parse_json(what, text)?;
        let wrong = |why: String| CniError::new(code::INVALID_CONFIG, format!("{what}: {why}"));
        let text_of =
            |key: &str| whole.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned);
        let flag = |key: &str| whole.get(key).is_some_and(|value| value == true || value == "true");
        let version = text_of("cniVersion").unwrap_or_else(|| version.to_string());
        version.parse::<SpecVersion>().map_err(|error| wrong(error.to_string()))?;
        let name = text_of("name").unwrap_or_else(|| name.to_owned());
        let (disable_check, disable_gc) = (flag("disableCheck"), flag("disableGC"));
        let plugins = match whole.remove("plugins") {
            None => vec![whole],
            Some(Value::Array(plugins)) => {
                let object = |(index, plugin)| match plugin {
                    Value::Object(plugin) => Ok(plugin),
                    _ => Err(wrong(format!("plugins[{index}] is not an object"))),
                };
                plugins.into_iter().enumerate().map(object).collect::<Result<_, _>>()?
            }
            Some(_) => return Err(wrong("plugins is not an array".to_owned())),
        };
        if plugins.is_empty() {
            return Err(wrong("plugins is empty".to_owned()));
        }
        for (index, plugin) in plugins.iter().enumerate() {
            match plugin.get("type").and_then(Value::as_str) {
                Some(kind) if !kind.is_empty() && !kind.contains('/') => {}
                Some(kind) => {
                    return Err(wrong(format!("type {kind:?} of plugin {index} is not the name of a plugin")));
                }
                None => return Err(wrong(format!("plugin {index} has no type"))),
            }
        }
        Ok(Self { name, version, disable_check, disable_gc, plugins })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The plugins' names.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        self.plugins.iter().filter_map(|plugin| plugin.get("type").and_then(Value::as_str))
    }

    fn version(&self) -> SpecVersion {
        self.version.parse().expect("checked when it was parsed")
    }
}

/// One attachment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Delegate {
    /// `namespace/name` of the NetworkAttachmentDefinition, or the name of the file's network.
    pub id: String,
    list: NetworkList,
    pub ifname: String,
    pub default: bool,
    /// Values for the plugins' capabilities.
    #[serde(default)]
    capabilities: Map<String, Value>,
    #[serde(default)]
    cni_args: Map<String, Value>,
    #[serde(default)]
    device: Option<String>,
    /// Gateways of the pod's default route by this interface.
    #[serde(default)]
    pub default_route: Vec<std::net::IpAddr>,
    /// Whether a plugin of it was run.
    #[serde(default)]
    pub begun: bool,
    #[serde(default)]
    pub result: Option<CniResult>,
}

impl Delegate {
    /// The attachment to a NetworkAttachmentDefinition with what the pod asked for.
    pub fn of_network(
        network: &Network,
        list: NetworkList,
        ifname: &str,
        default: bool,
        device: Option<String>,
    ) -> Self {
        let selection = &network.selection;
        let gateways = selection.default_route.iter().flatten();
        Self {
            id: format!("{}/{}", network.namespace, network.name),
            capabilities: capabilities(selection, device.as_deref()),
            cni_args: selection.cni_args.clone().unwrap_or_default(),
            device,
            default_route: gateways.filter_map(|gateway| gateway.parse().ok()).collect(),
            ..Self::of_file(list, ifname, default)
        }
    }

    /// The attachment to a network of the node's files.
    pub fn of_file(list: NetworkList, ifname: &str, default: bool) -> Self {
        Self {
            id: list.name.clone(),
            list,
            ifname: ifname.to_owned(),
            default,
            capabilities: Map::new(),
            cni_args: Map::new(),
            device: None,
            default_route: Vec::new(),
            begun: false,
            result: None,
        }
    }

    /// Adds what the runtime passed; what the pod asked for wins.
    pub fn with_runtime_config(mut self, runtime_config: &Map<String, Value>) -> Self {
        for (name, value) in runtime_config {
            self.capabilities.entry(name).or_insert_with(|| value.clone());
        }
        self
    }

    /// ADD of every plugin, in order; each gets the result of the one before.
    pub fn add(&mut self, invocation: &Invocation<'_>) -> Result<(), CniError> {
        self.begun = true;
        let mut result = None;
        for index in 0..self.list.plugins.len() {
            let stdin = self.stdin(index, result.as_ref());
            let output = self.run(invocation, Command::Add, index, &stdin)?;
            let parsed = CniResult::parse(&output).map_err(|error| {
                let msg = format!(
                    "{}: plugin {} answered nonsense: {error}",
                    doing(Command::Add, &self.id, &self.ifname),
                    self.kind(index)
                );
                CniError::new(code::DELEGATE, msg)
            })?;
            result = Some(parsed);
        }
        self.result = result;
        Ok(())
    }

    /// DEL of every plugin, last first. All are run; the first failure is told.
    pub fn del(&self, invocation: &Invocation<'_>) -> Result<(), CniError> {
        let previous = self.result.as_ref().filter(|_| self.list.version() >= SpecVersion::V0_4_0);
        let mut first = None;
        for index in (0..self.list.plugins.len()).rev() {
            let stdin = self.stdin(index, previous);
            if let Err(error) = self.run(invocation, Command::Del, index, &stdin) {
                first.get_or_insert(error);
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// CHECK of every plugin, in order, where version and configuration provide for it.
    pub fn check(&self, invocation: &Invocation<'_>) -> Result<(), CniError> {
        if self.list.disable_check || self.list.version() < Command::Check.since() {
            return Ok(());
        }
        let previous = self.result.as_ref();
        (0..self.list.plugins.len())
            .try_for_each(|index| self.run(invocation, Command::Check, index, &self.stdin(index, previous)).map(drop))
    }

    /// STATUS of every plugin, in order, where the version provides for it.
    pub fn status(&self, invocation: &Invocation<'_>) -> Result<(), CniError> {
        if self.list.version() < Command::Status.since() {
            return Ok(());
        }
        (0..self.list.plugins.len())
            .try_for_each(|index| self.run(invocation, Command::Status, index, &self.stdin(index, None)).map(drop))
    }

    fn run(
        &self,
        invocation: &Invocation<'_>,
        command: Command,
        index: usize,
        stdin: &Value,
    ) -> Result<Vec<u8>, CniError> {
        let what = doing(command, &self.id, &self.ifname);
        invocation.run(command, self.kind(index), &self.ifname, &stdin.to_string(), &what)
    }

    fn kind(&self, index: usize) -> &str {
        self.list.plugins[index].get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The configuration of one plugin: name and version of the list, what its capabilities ask for, `args.cni`, and the
    /// result of the plugin before.
    fn stdin(&self, index: usize, previous: Option<&CniResult>) -> Value {
        let mut conf = self.list.plugins[index].clone();
        conf.insert("name".into(), self.list.name.clone().into());
        conf.insert("cniVersion".into(), self.list.version.clone().into());
        let wanted = object(conf.remove("capabilities").as_ref());
        let mut runtime_config = object(conf.get("runtimeConfig"));
        for (name, _) in wanted.iter().filter(|(_, enabled)| **enabled == true) {
            if let Some(value) = self.capabilities.get(name) {
                runtime_config.insert(name.clone(), value.clone());
            }
        }
        if !runtime_config.is_empty() {
            conf.insert("runtimeConfig".into(), runtime_config.into());
        }
        if !self.cni_args.is_empty() {
            let mut args = object(conf.get("args"));
            let mut cni = object(args.get("cni"));
            cni.extend(self.cni_args.clone());
            args.insert("cni".into(), cni.into());
            conf.insert("args".into(), args.into());
        }
        if let Some(device) = self.device.as_ref().filter(|_| index == 0) {
            conf.insert("deviceID".into(), device.clone().into());
            conf.insert("pciBusID".into(), device.clone().into());
        }
        if let Some(previous) = previous {
            conf.insert("prevResult".into(), previous.to_value(self.list.version()));
        }
        conf.into()
    }
}

/// What the pod asked for, by the names of the capabilities ("CNI conventions").
fn capabilities(selection: &Selection, device: Option<&str>) -> Map<String, Value> {
    let text = |text: &str| (!text.is_empty()).then(|| Value::from(text));
    let values = [
        ("ips", (!selection.ips.is_empty()).then(|| selection.ips.clone().into())),
        ("mac", text(&selection.mac)),
        ("infinibandGUID", text(&selection.infiniband_guid)),
        ("portMappings", selection.port_mappings.clone()),
        ("bandwidth", selection.bandwidth.clone()),
        ("deviceID", device.and_then(text)),
    ];
    values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// GC of every network that attachments are left of: each plugin learns which ones.
pub(super) fn collect_garbage(invocation: &Invocation<'_>, kept: &[Entry]) -> Vec<CniError> {
    let mut networks: Vec<(&Delegate, Vec<Value>)> = Vec::new();
    for entry in kept {
        for delegate in &entry.delegates {
            let attachment = json!({"containerID": entry.container_id, "ifname": delegate.ifname});
            match networks.iter_mut().find(|(other, _)| other.list == delegate.list) {
                Some((_, attachments)) => attachments.push(attachment),
                None => networks.push((delegate, vec![attachment])),
            }
        }
    }
    let mut failures = Vec::new();
    for (delegate, attachments) in networks {
        if delegate.list.disable_gc || delegate.list.version() < Command::Gc.since() {
            continue;
        }
        for index in 0..delegate.list.plugins.len() {
            let mut stdin = delegate.stdin(index, None);
            stdin["cni.dev/valid-attachments"] = attachments.clone().into();
            stdin["cni.dev/attachments"] = attachments.clone().into();
            failures.extend(delegate.run(invocation, Command::Gc, index, &stdin).err());
        }
    }
    failures
}
