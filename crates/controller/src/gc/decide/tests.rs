//! Every row of the decision table, and every fault of upstream's collector that is mended in it (G1 to G16). Those that are not, or
//! not only, about decisions are tested beside what mends them:
//!
//! | fault | test |
//! | --- | --- |
//! | G1, G11 | `tests/gc/trouble.rs` |
//! | G7 | `mirror` |
//! | G8 | `tests/replicas/collection.rs`: the leader alone collects, from the first scan on |
//! | G9, G14 | `tests/gc/endpoints.rs` |
//! | G10 | none: it is about tickets of a limiter for the releases of a pool, whose errors and cancellation were ignored. There is neither limiter nor ticket: a release is one deletion with preconditions, and a look that is dropped leaves nothing to be given back |
//! | G12 | `queue` |
//! | G13, G15, G16 | `live` |

use super::*;
use crate::gc::facts::Terminating;

const SECOND: Duration = Duration::from_secs(1);
const NOW: i64 = 1_000_000;
const OLD: Duration = Duration::from_secs(100_000);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(NOW + second).unwrap()
}

fn rules() -> Rules {
    Rules { switches: Switches::default(), timing: Timing::default() }
}

fn with(change: impl Fn(&mut Switches)) -> Rules {
    let mut rules = rules();
    change(&mut rules.switches);
    rules
}

fn running() -> PodState {
    PodState { phase: Phase::Running, terminating: None, grace: 30 * SECOND, has_ips: true }
}

fn finished(how: &str, ended: i64) -> PodState {
    PodState { phase: Phase::Finished { how: how.into(), at: at(ended) }, ..running() }
}

/// Terminating, with the end of its grace period of 30 s at this second from now.
fn terminating(end: i64) -> PodState {
    PodState { terminating: Some(Terminating { end: at(end), grace: 30 * SECOND }), ..running() }
}

fn of_pod(pod: PodFact, node: NodeFact) -> ClaimFacts {
    ClaimFacts {
        state: IpState::Allocated,
        holder: HolderFact::Pod { pod: Some(pod), fixed: Some(Fixed::No) },
        age: OLD,
        seen: OLD,
        node: Some(node),
        missing: OLD,
        heritable: false,
    }
}

fn present(pod: PodState, node: NodeFact) -> ClaimFacts {
    of_pod(PodFact::Present(pod), node)
}

fn fixed(mut claim: ClaimFacts, is: Fixed) -> ClaimFacts {
    if let HolderFact::Pod { fixed, .. } = &mut claim.holder {
        *fixed = Some(is);
    }
    claim
}

fn successor(has_ips: bool) -> PodFact {
    PodFact::Successor { has_ips, mirror: false }
}

fn free(reason: Reason) -> Verdict {
    Verdict::Free(reason)
}

fn keep(reason: Reason) -> Verdict {
    Verdict::Keep(reason)
}

fn done() -> Reason {
    Reason::Finished("Succeeded".into())
}

const OFF_READY: Reason = Reason::SwitchedOff(READY);
const OFF_NOT_READY: Reason = Reason::SwitchedOff(NOT_READY);

#[track_caller]
fn check(rules: Rules, rows: Vec<(&str, ClaimFacts, Verdict)>) {
    for (row, facts, expected) in rows {
        assert_eq!(rules.claim(&facts, at(0)), expected, "{row}: {facts:?}");
    }
}

use NodeFact::{Fenced, Gone, NotReady, Ready, Unnamed};

#[test]
fn the_pod_is_gone() {
    let (absent, gone) = (PodFact::Absent, free(Reason::PodGone));
    check(
        rules(),
        vec![
            ("node gone: two proofs", of_pod(absent.clone(), Gone), gone.clone()),
            (
                "G4: a node that is missing is no reason to skip",
                of_pod(successor(true), Gone),
                free(Reason::PodReplaced),
            ),
            ("node fenced", of_pod(absent.clone(), Fenced), gone.clone()),
            ("node not ready: kept by default", of_pod(absent.clone(), NotReady), keep(OFF_NOT_READY)),
            ("node not ready, same name elsewhere", of_pod(successor(true), NotReady), keep(OFF_NOT_READY)),
            ("node ready, the agent had its time", of_pod(absent.clone(), Ready), gone.clone()),
            ("imported, nobody knows the node", of_pod(absent.clone(), Unnamed), gone.clone()),
            ("recreated under the same name", of_pod(successor(true), Ready), free(Reason::PodReplaced)),
            ("recreated, not yet with addresses", of_pod(successor(false), Ready), free(Reason::PodReplaced)),
        ],
    );
    let on = with(|switches| switches.not_ready_node = true);
    check(on, vec![("node not ready, with the switch", of_pod(absent.clone(), NotReady), gone)]);
    // The switch for ready nodes is about pods that should have ended, not about pods that are gone.
    check(
        with(|switches| switches.ready_node = false),
        vec![("gone, ready node, switch off", of_pod(absent, Ready), free(Reason::PodGone))],
    );
}

#[test]
fn the_agent_of_a_ready_node_comes_first() {
    for (seen, node, wait) in [
        (0, Ready, Some(660)),
        (659, Ready, Some(1)),
        (660, Ready, None),
        (0, NotReady, Some(30)),
        (29, Gone, Some(1)),
        (30, Gone, None),
        (30, Fenced, None),
    ] {
        let facts = ClaimFacts { seen: seen * SECOND, ..of_pod(PodFact::Absent, node) };
        let expected = wait.map_or(free(Reason::PodGone), |wait| Verdict::Wait(Reason::PodGone, wait * SECOND));
        let on = with(|switches| switches.not_ready_node = true);
        assert_eq!(on.claim(&facts, at(0)), expected, "{node:?} after {seen} s");
    }
    let facts = ClaimFacts { missing: SECOND, ..of_pod(PodFact::Absent, Gone) };
    let wait = Verdict::Wait(Reason::PodGone, 29 * SECOND);
    assert_eq!(rules().claim(&facts, at(0)), wait, "a node that is missing for a second may be registering anew");
}

#[test]
fn fixed_addresses_without_their_pod() {
    let row = |pod, is, node| fixed(of_pod(pod, node), is);
    check(
        rules(),
        vec![
            ("valid, no pod", row(PodFact::Absent, Fixed::Valid, Gone), keep(Reason::Fixed)),
            ("valid, no pod, ready node", row(PodFact::Absent, Fixed::Valid, Ready), keep(Reason::Fixed)),
            ("invalid, no pod", row(PodFact::Absent, Fixed::Invalid, Gone), free(Reason::PodGone)),
            ("valid, successor starts", row(successor(false), Fixed::Valid, Gone), free(Reason::PodReplaced)),
            (
                "valid, successor starts, node not ready",
                row(successor(false), Fixed::Valid, NotReady),
                keep(OFF_NOT_READY),
            ),
            (
                "valid, successor starts and may be given it",
                ClaimFacts { heritable: true, ..row(successor(false), Fixed::Valid, Gone) },
                keep(Reason::Fixed),
            ),
            (
                "valid, successor has its own though it might be given it",
                ClaimFacts { heritable: true, ..row(successor(true), Fixed::Valid, Gone) },
                free(Reason::PodReplaced),
            ),
            ("invalid, successor starts", row(successor(false), Fixed::Invalid, Gone), free(Reason::PodReplaced)),
            ("successor has its own", row(successor(true), Fixed::Valid, Gone), free(Reason::PodReplaced)),
        ],
    );
}

#[test]
fn a_static_pods_mirror_may_be_made_anew_without_its_sandbox() {
    let mirror = PodFact::Successor { has_ips: true, mirror: true };
    check(rules(), vec![("mirror", of_pod(mirror, Ready), keep(Reason::StaticPod))]);
}

#[test]
fn the_pod_has_finished() {
    let ready_off = with(|switches| switches.ready_node = false);
    let not_ready_on = with(|switches| switches.not_ready_node = true);
    let pod = || finished("Succeeded", -31);
    check(
        rules(),
        vec![
            ("finished Job, ready node", present(pod(), Ready), free(done())),
            ("node unknown", present(pod(), Unnamed), free(done())),
            ("node gone", present(pod(), Gone), free(done())),
            ("node fenced", present(pod(), Fenced), free(done())),
            ("node not ready", present(pod(), NotReady), keep(OFF_NOT_READY)),
            ("within its grace", present(finished("Succeeded", -29), Ready), Verdict::Wait(done(), SECOND)),
            ("valid fixed", fixed(present(pod(), Ready), Fixed::Valid), keep(Reason::Fixed)),
            ("invalid fixed", fixed(present(pod(), Ready), Fixed::Invalid), free(done())),
            (
                "G3: evicted",
                present(finished("Failed, Evicted", -31), Ready),
                free(Reason::Finished("Failed, Evicted".into())),
            ),
            (
                "finished and terminating counts as terminating",
                present(PodState { terminating: terminating(5).terminating, ..pod() }, Ready),
                Verdict::Wait(Reason::Terminating, 5 * SECOND),
            ),
        ],
    );
    check(ready_off, vec![("switch for ready nodes off", present(pod(), Ready), keep(OFF_READY))]);
    check(not_ready_on, vec![("switch for others on", present(pod(), NotReady), free(done()))]);
    check(
        with(|switches| switches.delay = 10 * SECOND),
        vec![("with delay", present(pod(), Ready), Verdict::Wait(done(), 9 * SECOND))],
    );
}

#[test]
fn the_pod_is_terminating() {
    let over = Reason::Terminating;
    let no_ips = |pod: PodState| PodState { has_ips: false, ..pod };
    let pending = |pod: PodState| PodState { phase: Phase::Pending, has_ips: false, ..pod };
    let wait = |seconds| Verdict::Wait(Reason::Terminating, seconds * SECOND);
    check(
        rules(),
        vec![
            ("not over", present(terminating(7), Ready), wait(7)),
            ("G2: not over, no podIPs", present(no_ips(terminating(7)), Ready), wait(7)),
            ("G2: fixed comes first", fixed(present(no_ips(terminating(7)), Ready), Fixed::Valid), keep(Reason::Fixed)),
            ("G5: the grace period counts once", present(terminating(-1), Ready), free(over.clone())),
            ("G6: Pending", present(pending(terminating(-1)), Ready), free(over.clone())),
            ("G6: Pending, not over", present(pending(terminating(7)), Ready), wait(7)),
            ("over, node not ready", present(terminating(-1), NotReady), keep(OFF_NOT_READY)),
            ("over, node gone", present(terminating(-1), Gone), free(over.clone())),
            ("over, node fenced", present(terminating(-1), Fenced), free(over.clone())),
            ("over, valid fixed", fixed(present(terminating(-1), Ready), Fixed::Valid), keep(Reason::Fixed)),
            ("over, invalid fixed", fixed(present(terminating(-1), Ready), Fixed::Invalid), free(over.clone())),
        ],
    );
    let on = with(|switches| switches.not_ready_node = true);
    check(on, vec![("over, node not ready, switch on", present(terminating(-1), NotReady), free(over))]);
    let off = with(|switches| switches.ready_node = false);
    check(off, vec![("over, node ready, switch off", present(terminating(-1), Ready), keep(OFF_READY))]);
    let late = with(|switches| switches.delay = 10 * SECOND);
    check(late, vec![("with delay", present(terminating(-1), Ready), wait(9))]);
}

#[test]
fn a_wrong_clock_frees_nothing_of_a_terminating_pod() {
    // The clock says that the end was an hour ago, the stopwatch that the deletion began a second ago.
    let facts = ClaimFacts { seen: SECOND, ..present(terminating(-3600), Ready) };
    assert_eq!(rules().claim(&facts, at(0)), Verdict::Wait(Reason::Terminating, 59 * SECOND));
    // G5: grace and time to settle, not twice the grace.
    let facts = ClaimFacts { seen: 60 * SECOND, ..present(terminating(-30), Ready) };
    assert_eq!(rules().claim(&facts, at(0)), free(Reason::Terminating));
}

#[test]
fn the_pod_is_alive() {
    let without = |phase| PodState { phase, has_ips: false, ..running() };
    let is = |phase| PodState { phase, ..running() };
    check(
        rules(),
        vec![
            ("Pending", present(without(Phase::Pending), Ready), keep(Reason::InUse)),
            ("Running", present(running(), Ready), keep(Reason::InUse)),
            ("Running, node gone: Kubernetes deletes it", present(running(), Gone), keep(Reason::InUse)),
            ("Running, node not ready", present(running(), NotReady), keep(Reason::InUse)),
            ("Unknown with podIPs", present(is(Phase::Unknown), NotReady), keep(Reason::InUse)),
            ("Running without podIPs", present(without(Phase::Running), Ready), keep(Reason::InUse)),
            ("Unknown without podIPs", present(without(Phase::Unknown), Ready), free(Reason::Lost)),
            ("the same, not ready", present(without(Phase::Unknown), NotReady), keep(OFF_NOT_READY)),
            ("the same, node gone", present(without(Phase::Unknown), Gone), keep(Reason::InUse)),
            (
                "the same, valid fixed",
                fixed(present(without(Phase::Unknown), Ready), Fixed::Valid),
                keep(Reason::Fixed),
            ),
        ],
    );
    let empty = with(|switches| switches.empty_ips = true);
    let no_address = || present(without(Phase::Running), Ready);
    check(
        empty,
        vec![
            ("Running without podIPs, switch on", no_address(), free(Reason::NoAddress)),
            ("valid fixed", fixed(no_address(), Fixed::Valid), keep(Reason::Fixed)),
            ("invalid fixed", fixed(no_address(), Fixed::Invalid), free(Reason::NoAddress)),
            (
                "just started",
                ClaimFacts { seen: SECOND, ..no_address() },
                Verdict::Wait(Reason::NoAddress, 29 * SECOND),
            ),
            ("Pending", present(without(Phase::Pending), Ready), keep(Reason::InUse)),
        ],
    );
}

#[test]
fn nothing_is_decided_without_a_fact() {
    let absent = || of_pod(PodFact::Absent, Gone);
    let pod = |pod, fixed| HolderFact::Pod { pod, fixed };
    check(
        rules(),
        vec![
            ("node unread", ClaimFacts { node: None, ..absent() }, Verdict::Unread),
            ("pod unread", ClaimFacts { holder: pod(None, Some(Fixed::No)), ..absent() }, Verdict::Unread),
            ("owner unread", ClaimFacts { holder: pod(Some(PodFact::Absent), None), ..absent() }, Verdict::Unread),
        ],
    );
}

#[test]
fn what_is_not_a_pods() {
    let absent = || of_pod(PodFact::Absent, Gone);
    let held = |node| ClaimFacts { state: IpState::Held, holder: HolderFact::Node, ..of_pod(PodFact::Absent, node) };
    let quarantined = |node| ClaimFacts { state: IpState::Conflict, ..of_pod(PodFact::Absent, node) };
    check(
        rules(),
        vec![
            ("held by a node", held(Ready), keep(Reason::HeldByNode)),
            ("held by a node that is not ready", held(NotReady), keep(Reason::HeldByNode)),
            ("held by a node that is fenced", held(Fenced), keep(Reason::HeldByNode)),
            ("held by a node that is gone", held(Gone), free(Reason::NodeGone)),
            ("quarantined", quarantined(Ready), keep(Reason::Quarantined)),
            ("quarantined by a node that is gone", quarantined(Gone), free(Reason::PodGone)),
            ("a later version's state", ClaimFacts { state: IpState::Unknown, ..absent() }, keep(Reason::LaterVersion)),
            (
                "a later version's holder",
                ClaimFacts { holder: HolderFact::Unknown, ..absent() },
                keep(Reason::LaterVersion),
            ),
        ],
    );
}

#[test]
fn the_young_are_left_alone() {
    // G1: a claim may be seen before its pod is.
    let facts = ClaimFacts { age: 59 * SECOND, ..of_pod(PodFact::Absent, Gone) };
    assert_eq!(rules().claim(&facts, at(0)), Verdict::Wait(Reason::Young, SECOND));
    let facts = ClaimFacts { age: 60 * SECOND, ..facts };
    assert_eq!(rules().claim(&facts, at(0)), free(Reason::PodGone));
}

fn endpoint(pod: PodFact, claimed: bool) -> EndpointFacts {
    EndpointFacts {
        pod: Some(pod),
        fixed: Some(Fixed::No),
        claimed,
        names_ips: true,
        recorded: false,
        terminating: false,
        age: OLD,
        seen: OLD,
    }
}

#[test]
fn endpoints() {
    let outdated = with(|switches| switches.clean_outdated = true);
    let alive = || PodFact::Present(running());
    let ended = || PodFact::Present(finished("Succeeded", -100));
    let valid = |facts: EndpointFacts| EndpointFacts { fixed: Some(Fixed::Valid), ..facts };
    let ending = |facts: EndpointFacts| EndpointFacts { terminating: true, ..facts };
    let (gone, replaced, unclaimed) = (Reason::PodGone, Reason::PodReplaced, Reason::Unclaimed);
    let rows = [
        ("alive, with claims", rules(), endpoint(alive(), true), keep(Reason::Claimed)),
        ("alive, without claims", rules(), endpoint(alive(), false), keep(Reason::InUse)),
        ("the same, outdated are cleaned", outdated, endpoint(alive(), false), free(unclaimed.clone())),
        (
            "the same, names no address",
            outdated,
            EndpointFacts { names_ips: false, ..endpoint(alive(), false) },
            keep(Reason::InUse),
        ),
        (
            "the same, upstream's pool has a record",
            outdated,
            EndpointFacts { recorded: true, ..endpoint(alive(), false) },
            keep(Reason::InUse),
        ),
        (
            "G14: just seen",
            outdated,
            EndpointFacts { seen: SECOND, ..endpoint(alive(), false) },
            Verdict::Wait(unclaimed.clone(), 29 * SECOND),
        ),
        (
            "G14: young",
            outdated,
            EndpointFacts { age: SECOND, ..endpoint(alive(), false) },
            Verdict::Wait(Reason::Young, 59 * SECOND),
        ),
        ("finished, claims left", rules(), endpoint(ended(), true), keep(Reason::Claimed)),
        ("finished, none left", rules(), endpoint(ended(), false), free(unclaimed.clone())),
        ("finished, fixed", rules(), valid(endpoint(ended(), false)), keep(Reason::Fixed)),
        ("gone, no claims: never collected by upstream", rules(), endpoint(PodFact::Absent, false), free(gone.clone())),
        (
            "gone, upstream's pool has a record that is not imported yet",
            rules(),
            EndpointFacts { recorded: true, ..endpoint(PodFact::Absent, false) },
            keep(Reason::Claimed),
        ),
        ("gone, claims are kept", rules(), endpoint(PodFact::Absent, true), keep(Reason::Claimed)),
        (
            "gone, claims are kept, but it holds up its namespace",
            rules(),
            ending(endpoint(PodFact::Absent, true)),
            free(gone),
        ),
        ("gone, fixed", rules(), valid(endpoint(PodFact::Absent, false)), keep(Reason::Fixed)),
        ("gone, fixed, outdated", outdated, valid(endpoint(PodFact::Absent, false)), free(unclaimed)),
        ("gone, fixed, claims", outdated, valid(endpoint(PodFact::Absent, true)), keep(Reason::Fixed)),
        ("replaced", rules(), endpoint(successor(true), false), free(replaced.clone())),
        ("replaced, fixed, successor has its own", rules(), valid(endpoint(successor(true), false)), free(replaced)),
        ("replaced, fixed, successor starts", rules(), valid(endpoint(successor(false), false)), keep(Reason::Fixed)),
        ("pod unread", rules(), EndpointFacts { pod: None, ..endpoint(alive(), false) }, Verdict::Unread),
        ("owner unread", rules(), EndpointFacts { fixed: None, ..endpoint(alive(), false) }, Verdict::Unread),
    ];
    for (row, rules, facts, expected) in rows {
        assert_eq!(rules.endpoint(&facts), expected, "{row}: {facts:?}");
    }
}
