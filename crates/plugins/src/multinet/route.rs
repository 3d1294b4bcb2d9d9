//! The member `default-route` of a selection (standard v1.3, section 4.1.2.1.9): the pod's default route leaves by that
//! network, and by no other.

use std::net::IpAddr;

use net::{Family, Hop, MAIN_TABLE, Netlink, Netns, Route};
use wire::cni::{self, Call, CniError, code};

use super::delegate::Delegate;

/// Moves the default route, per family for which a gateway was asked for. Results are changed accordingly.
pub(super) fn choose_default(call: &Call, delegates: &mut [Delegate]) -> Result<(), CniError> {
    if delegates.iter().all(|delegate| delegate.default_route.is_empty()) {
        return Ok(());
    }
    let failed = |error: net::Error| CniError::caused(code::DATA_PATH, "multinet: default-route", &error);
    let netns = Netns::open(call.env.netns.clone().unwrap_or_default()).map_err(failed)?;
    let mut netlink = Netlink::open_in(&netns).map_err(failed)?;
    let links: Vec<(u32, String)> =
        netlink.links().map_err(failed)?.into_iter().map(|link| (link.index, link.name)).collect();
    for family in Family::BOTH {
        let wanted = gateways(delegates, family);
        if wanted.is_empty() {
            continue;
        }
        let routes = netlink.routes(family, Some(MAIN_TABLE)).map_err(failed)?;
        for old in routes.iter().filter(|route| route.is_default()) {
            netlink.run(old.delete()).map_err(failed)?;
        }
        for (ifname, gateway) in &wanted {
            let link = links.iter().find(|(_, name)| name == ifname).map(|(index, _)| *index).ok_or_else(|| {
                CniError::new(code::DATA_PATH, format!("multinet: default-route: the pod has no interface {ifname}"))
            })?;
            let hop = Hop { link, gateway: Some(*gateway), on_link: false };
            netlink.run(Route::new(family.everything(), MAIN_TABLE, hop).append()).map_err(failed)?;
        }
        rewrite(delegates, family);
    }
    Ok(())
}

fn gateways(delegates: &[Delegate], family: Family) -> Vec<(String, IpAddr)> {
    let of_delegate = |delegate: &Delegate| -> Vec<(String, IpAddr)> {
        let own = delegate.default_route.iter().filter(|gateway| Family::of(**gateway) == family);
        own.map(|gateway| (delegate.ifname.clone(), *gateway)).collect()
    };
    delegates.iter().flat_map(of_delegate).collect()
}

/// The results tell the routes as they are now.
fn rewrite(delegates: &mut [Delegate], family: Family) {
    for delegate in delegates {
        let Some(result) = &mut delegate.result else { continue };
        result.routes.retain(|route| !(route.dst.prefix_len() == 0 && Family::of(route.dst.addr()) == family));
        let own = delegate.default_route.iter().filter(|gateway| Family::of(**gateway) == family);
        result.routes.extend(own.map(|gateway| cni::Route::new(family.everything(), Some(*gateway))));
    }
}
