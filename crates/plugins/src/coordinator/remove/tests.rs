use super::*;
use crate::coordinator::plan;
use crate::coordinator::testing::{CONTAINER, Kernel, request};

const ETH0: (&[&str], &[&str]) = (&["10.6.2.1/16", "fd00:10:6::2:1/64"], &["10.6.0.1", "fd00:10:6::fe"]);
const NET1: (&[&str], &[&str]) = (&["172.200.0.5/16", "fd00:200::5/64"], &["172.200.0.1", "fd00:200::fe"]);

fn attach(nic: &str, default: Option<&str>, kernel: &mut Kernel) {
    let mut request = request(nic);
    request.settings.default_route_nic = default.map(str::to_owned);
    let steps = plan::add(&request, &kernel.pod, &kernel.host).unwrap();
    steps.iter().for_each(|step| kernel.carry_out(&step.op));
}

fn del(nic: &str, first: bool) -> Request {
    Request { nic: nic.to_owned(), container_id: CONTAINER.to_owned(), first, reported: Vec::new() }
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

#[test]
fn a_further_nic_takes_only_its_own_along() {
    for default in [None, Some("net1")] {
        let mut kernel = Kernel::new().nic("eth0", ETH0.0, ETH0.1);
        attach("eth0", default, &mut kernel);
        let before = kernel.words();
        kernel = kernel.nic("net1", NET1.0, NET1.1);
        attach("net1", default, &mut kernel);

        let removal = remove(&del("net1", false), Some(&kernel.pod), &kernel.host);
        removal.ops.iter().for_each(|op| kernel.carry_out(op));
        assert_eq!(removal.forget, set(&["172.200.0.5", "fd00:200::5"]));
        // The main plugin removes the NIC afterwards.
        kernel.pod.links.retain(|link| link.name != "net1");
        kernel.pod.routes.retain(|route| route.dev != "net1");
        assert_eq!(kernel.words(), before, "default by {default:?}");
    }
}

#[test]
fn the_first_nic_takes_the_pair_along() {
    let mut kernel = Kernel::new().nic("eth0", ETH0.0, ETH0.1);
    let before = kernel.words();
    attach("eth0", None, &mut kernel);
    let removal = remove(&del("eth0", true), Some(&kernel.pod), &kernel.host);
    removal.ops.iter().for_each(|op| kernel.carry_out(op));
    kernel.host.rules.clear();
    assert_eq!(kernel.words(), before);
    assert_eq!(removal.forget, set(&["10.6.2.1", "fd00:10:6::2:1"]));
    assert_eq!(remove(&del("eth0", true), None, &kernel.host), Removal::default(), "a second call has nothing to do");
}

#[test]
fn without_a_namespace_the_node_is_cleaned_by_the_container() {
    let mut kernel = Kernel::new().nic("eth0", ETH0.0, ETH0.1);
    attach("eth0", None, &mut kernel);
    let removal = remove(&del("net1", false), None, &kernel.host);
    assert_eq!(removal.forget, set(&["10.6.2.1", "fd00:10:6::2:1"]));
    assert_eq!(removal.ops.last(), Some(&Op::DeleteLink { side: Side::Host, dev: host_veth(CONTAINER) }));
}

#[test]
fn an_address_with_a_new_owner_is_left_alone() {
    let mut kernel = Kernel::new();
    kernel.host.routes.push(Route::new("10.6.2.1/32".parse().unwrap(), "vethfedcba98765", 500));
    let late =
        Request { reported: vec!["10.6.2.1".parse().unwrap(), "10.6.2.9".parse().unwrap()], ..del("eth0", true) };
    let removal = remove(&late, None, &kernel.host);
    assert_eq!((removal.ops, removal.forget), (Vec::new(), set(&["10.6.2.9"])));
}
