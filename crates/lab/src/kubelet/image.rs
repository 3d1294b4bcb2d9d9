//! Images are names here: each stands for a program of the host.

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;

/// What the lab provides under an image's name; none if it has nothing like it.
fn entrypoint(image: &str) -> Option<Vec<String>> {
    let own = std::env::current_exe().ok()?.display().to_string();
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rsplit('/').next().unwrap_or(name);
    let base = last.split(':').next().unwrap_or(last);
    match base {
        "tools" | "nginx" | "httpd" => Some(vec![own, "app".into()]),
        "coredns" => Some(vec![own, "dns".into()]),
        "busybox" | "debian" => Some(vec!["/bin/sh".into()]),
        "pause" => Some(vec!["/usr/bin/tail".into(), "-f".into(), "/dev/null".into()]),
        _ => None,
    }
}

/// The words to start for a container: entry point and arguments as Kubernetes combines them.
pub fn command(container: &Container) -> Result<Vec<String>, String> {
    let image = container.image.as_deref().unwrap_or_default();
    let own = entrypoint(image).ok_or_else(|| format!("the lab has no image {image:?}"))?;
    let args = container.args.clone().unwrap_or_default();
    match &container.command {
        Some(command) if !command.is_empty() => Ok(command.iter().cloned().chain(args).collect()),
        _ => Ok(own.into_iter().chain(args).collect()),
    }
}

/// The container's environment: literal values and the fields that a pod may refer to.
pub fn environment(
    pod: &Pod,
    container: &Container,
    addresses: &[std::net::IpAddr],
    node: &str,
) -> Vec<(String, String)> {
    let list = || addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    let field = |path: &str| match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => node.to_owned(),
        "status.podIP" => list().into_iter().next().unwrap_or_default(),
        "status.podIPs" => list().join(","),
        _ => String::new(),
    };
    let own = container.env.iter().flatten().map(|variable| {
        let referred = variable
            .value_from
            .as_ref()
            .and_then(|from| from.field_ref.as_ref())
            .map(|reference| field(&reference.field_path));
        (variable.name.clone(), variable.value.clone().or(referred).unwrap_or_default())
    });
    std::iter::once(("HOSTNAME".to_owned(), pod.name_any())).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(image: &str, command: &[&str], args: &[&str]) -> Container {
        let words = |list: &[&str]| (!list.is_empty()).then(|| list.iter().map(|&word| word.to_owned()).collect());
        Container { image: Some(image.into()), command: words(command), args: words(args), ..Default::default() }
    }

    #[test]
    fn commands_replace_the_entry_point_and_arguments_follow() {
        let own = command(&container("docker.io/centos/tools", &[], &["--x"])).unwrap();
        assert_eq!(own[1..], ["app", "--x"]);
        let given = command(&container("docker.io/centos/tools:7", &["sleep"], &["9"])).unwrap();
        assert_eq!(given, ["sleep", "9"]);
        assert_eq!(
            command(&container("quay.io/what/ever", &[], &[])).unwrap_err(),
            "the lab has no image \"quay.io/what/ever\""
        );
    }
}
