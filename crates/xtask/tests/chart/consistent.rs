//! What is rendered fits together: names that are referred to exist, nothing is there twice, selectors find their pods.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::helm::{Rendered, containers, lint, pod, render, yaml};

const VARIANTS: [&str; 6] = [
    "{}",
    include_str!("everything.yaml"),
    "{ipam: {enableStatefulSet: false}, multus: {multusCNI: {defaultCniCRName: ipvlan-eth0}}}",
    "{multus: {implementation: multinet}, spiderpoolController: {hostnetwork: false}, coordinator: {enabled: false}}",
    "{multus: {multusCNI: {install: false, uninstall: true}}, spiderpoolAgent: {tuneSysctlConfig: false}}",
    "{global: {nameOverride: other, commonLabels: {team: net}, commonAnnotations: {why: because}}, spiderpoolAgent: {name: a}, \
     spiderpoolController: {name: c, tls: {method: provided, provided: {tlsCert: LS0tLS1CRUdJTiBY, tlsKey: LS0tLS1CRUdJTiBY, \
     tlsCa: LS0tLS1CRUdJTiBY}}}, spiderpoolInit: {name: i}}",
];

fn workloads(all: &Rendered) -> Vec<&Value> {
    ["DaemonSet", "Deployment", "Job"].iter().flat_map(|kind| all.all(kind)).collect()
}

fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str()).collect()
}

fn each(check: impl Fn(&Rendered)) {
    for values in VARIANTS {
        println!("{values}");
        check(&render(values));
    }
}

#[test]
#[ignore = "helm"]
fn helm_has_no_complaint() {
    lint().unwrap();
}

/// What the API server takes as the name of an object, and of what is at most a DNS label.
fn is_name(text: &str, longest: usize) -> bool {
    let is_inner = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
    let dots = longest > 63;
    (1..=longest).contains(&text.len())
        && text.starts_with(is_inner)
        && text.ends_with(is_inner)
        && text.chars().all(|character| is_inner(character) || character == '-' || (dots && character == '.'))
}

fn is_label(text: &str) -> bool {
    let is_inner = |character: char| character.is_ascii_alphanumeric();
    text.len() <= 63
        && (text.is_empty() || text.starts_with(is_inner) && text.ends_with(is_inner))
        && text.chars().all(|character| is_inner(character) || "-_.".contains(character))
}

#[test]
#[ignore = "helm"]
fn the_longest_names_that_are_taken_fit_everywhere() {
    let mut values = yaml(include_str!("everything.yaml"));
    let long = |head: &str, length: usize| json!(format!("{head}{}", "x".repeat(length - head.len())));
    values["spiderpoolController"]["name"] = long("controller-", 47);
    values["spiderpoolAgent"]["name"] = long("agent-", 63);
    values["spiderpoolInit"]["name"] = long("init-", 63);
    values["multus"]["multusCNI"]["name"] = long("multus-", 63);
    // Cut where no label may end.
    for name in [format!("My_{}_Pool", "P".repeat(59)), "My_Pool.2".to_owned()] {
        values["global"]["nameOverride"] = json!(name);
        let all = render(&values.to_string());
        for object in &all.0 {
            let is_job = matches!(object["kind"].as_str().unwrap(), "Job" | "Service");
            let longest = if is_job { 63 } else { 253 };
            let name = object["metadata"]["name"].as_str().unwrap();
            assert!(is_name(name, longest), "{}: {} characters", title(object), name.len());
            let of_pods = object.pointer("/spec/template/metadata/labels");
            for (key, value) in object.pointer("/metadata/labels").into_iter().chain(of_pods).flat_map(members) {
                assert!(is_label(value), "{}: {key}: {value}", title(object));
            }
        }
        for object in workloads(&all) {
            for container in containers(object) {
                assert!(is_name(container["name"].as_str().unwrap(), 63), "{}: {container}", title(object));
            }
        }
    }
}

fn members(object: &Value) -> impl Iterator<Item = (&String, &str)> {
    object.as_object().unwrap().iter().map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

#[test]
#[ignore = "helm"]
fn no_object_and_no_name_within_one_is_there_twice() {
    each(|all| {
        let titles: Vec<_> = all.0.iter().map(title).collect();
        assert_eq!(titles.iter().collect::<BTreeSet<_>>().len(), titles.len(), "{titles:#?}");
        for object in workloads(all) {
            let unique = |list: Vec<&str>, what: &str| {
                assert_eq!(
                    list.iter().collect::<BTreeSet<_>>().len(),
                    list.len(),
                    "{} {what}: {list:?}",
                    title(object)
                );
            };
            unique(containers(object).iter().filter_map(|one| one["name"].as_str()).collect(), "containers");
            unique(names(&pod(object)["volumes"]), "volumes");
            for container in containers(object) {
                unique(names(&container["env"]), "env");
                unique(names(&container["ports"]), "ports");
            }
        }
    });
}

#[test]
#[ignore = "helm"]
fn what_is_mounted_is_a_volume_and_each_volume_is_mounted() {
    each(|all| {
        for object in workloads(all) {
            let volumes: BTreeSet<_> = names(&pod(object)["volumes"]).into_iter().collect();
            let mounted: BTreeSet<_> =
                containers(object).into_iter().flat_map(|container| names(&container["volumeMounts"])).collect();
            assert_eq!(volumes, mounted, "{}", title(object));
        }
    });
}

#[test]
#[ignore = "helm"]
fn selectors_find_their_pods_and_services_their_ports() {
    each(|all| {
        for kind in ["DaemonSet", "Deployment"] {
            for object in all.all(kind) {
                let labels = &object["spec"]["template"]["metadata"]["labels"];
                let selector = object["spec"]["selector"]["matchLabels"].as_object().unwrap();
                // Upstream's, so that an upgrade from it can keep the objects: selectors cannot change.
                assert_eq!(
                    selector.keys().collect::<Vec<_>>(),
                    ["app.kubernetes.io/component", "app.kubernetes.io/instance", "app.kubernetes.io/name"]
                );
                assert!(selector.iter().all(|(key, value)| labels[key] == *value), "{}", title(object));
            }
        }
        for service in all.all("Service") {
            let selector = service["spec"]["selector"].as_object().unwrap();
            let found: Vec<_> = workloads(all)
                .into_iter()
                .filter(|object| {
                    let labels = &object["spec"]["template"]["metadata"]["labels"];
                    selector.iter().all(|(key, value)| labels[key] == *value)
                })
                .collect();
            assert_eq!(
                found.len(),
                1,
                "{} selects {:?}",
                title(service),
                found.iter().map(|one| title(one)).collect::<Vec<_>>()
            );
            let ports: Vec<_> =
                containers(found[0]).into_iter().flat_map(|container| names(&container["ports"])).collect();
            for port in service["spec"]["ports"].as_array().unwrap() {
                assert!(ports.contains(&port["targetPort"].as_str().unwrap()), "{} {port}", title(service));
            }
        }
    });
}

#[test]
#[ignore = "helm"]
fn identities_and_roles_exist_where_they_are_used() {
    each(|all| {
        for object in workloads(all) {
            let account = pod(object)["serviceAccountName"].as_str().unwrap();
            let account = all.get("ServiceAccount", account);
            let hook = |object: &Value| object["metadata"]["annotations"]["helm.sh/hook"].clone();
            if hook(account) != Value::Null {
                assert_eq!(hook(account), hook(object), "{}: its identity comes and goes with it", title(object));
            }
        }
        for kind in ["ClusterRoleBinding", "RoleBinding"] {
            for binding in all.all(kind) {
                let role = &binding["roleRef"];
                all.get(role["kind"].as_str().unwrap(), role["name"].as_str().unwrap());
                all.get("ServiceAccount", binding["subjects"][0]["name"].as_str().unwrap());
                assert_eq!(binding["subjects"][0]["namespace"], "kube-system");
            }
        }
        for kind in ["ClusterRole", "Role"] {
            for rule in all.all(kind).into_iter().flat_map(|role| role["rules"].as_array().unwrap()) {
                assert!(!rule.to_string().contains('*') && !rule.to_string().contains("{{"), "{rule}");
            }
        }
    });
}

#[test]
#[ignore = "helm"]
fn objects_bear_the_common_labels_and_annotations() {
    let all = render(VARIANTS[5]);
    for object in &all.0 {
        let metadata = &object["metadata"];
        assert_eq!(metadata["labels"]["app.kubernetes.io/name"], "other", "{}", title(object));
        assert_eq!(metadata["labels"]["team"], "net", "{}", title(object));
        assert_eq!(metadata["annotations"]["why"], "because", "{}", title(object));
    }
}
