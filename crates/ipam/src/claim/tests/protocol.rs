//! One rule per test, with every reply in hand.

use super::world::{Single, add, pool, release, want};
use crate::claim::*;
use crate::pool::Pool;
use crate::range::SpanSet;

fn small() -> Pool {
    pool("small", "10.0.0.0/24", &["10.0.0.1-10.0.0.3"])
}

fn unknown() -> Option<Outcome> {
    Some(Outcome::Unknown("timed out".into()))
}

#[test]
fn a_pool_with_as_many_addresses_as_pods_fills_to_the_last_one() {
    let mut world = Single::new(Vec::new());
    for pod in ["a", "b", "c"] {
        world.add_now(add(pod, pod, "eth0", vec![want("eth0", &[small()])])).unwrap();
    }
    assert_eq!(world.api.objects.len(), 3);
    let error = world.add_now(add("d", "d", "eth0", vec![want("eth0", &[small()])])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all IP addresses used out: NIC eth0 IPv4: pool small: all its 3 IP addresses are in use"
    );
    assert!(world.claims.is_idle());
}

#[test]
fn the_next_pool_serves_when_one_is_used_up() {
    let mut world = Single::new(Vec::new());
    let second = pool("second", "10.0.1.0/24", &["10.0.1.9"]);
    for pod in ["a", "b", "c"] {
        world.add_now(add(pod, pod, "eth0", vec![want("eth0", &[small(), second.clone()])])).unwrap();
    }
    let last = world.add_now(add("d", "d", "eth0", vec![want("eth0", &[small(), second.clone()])])).unwrap();
    assert_eq!(last, [("eth0".to_owned(), "10.0.1.9".parse().unwrap())]);
    let mut wanted = want("eth0", &[small(), second]);
    wanted.rejected.push(Rejection { pool: "third".into(), reason: "unmatched Node name x".into() });
    let error = world.add_now(add("e", "e", "eth0", vec![wanted])).unwrap_err().to_string();
    for part in ["pool small: all its 3", "pool second: all its 1", "pool third: unmatched Node name x"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_repeated_add_gets_the_same_address_also_after_a_restart() {
    let mut world = Single::new(Vec::new());
    let wants = || vec![want("eth0", &[small()]), want("eth1", &[small()])];
    let first = world.add_now(add("a", "c1", "eth0", wants())).unwrap();
    assert_eq!(first.len(), 2);
    assert_ne!(first[0].1, first[1].1, "two NICs never get the same address");
    assert_eq!(world.add_now(add("a", "c1", "eth0", wants())).unwrap(), first);
    let stored = world.api.of_node("node");
    let mut again = Single::new(stored);
    assert_eq!(again.add_now(add("a", "c1", "eth0", wants())).unwrap(), first);
    assert_eq!(again.add_now(add("a", "c1", "eth1", Vec::new())).unwrap(), first, "known claims do without wants");
    assert_eq!(again.api.creates, 0);
}

#[test]
fn a_new_sandbox_of_the_same_pod_takes_the_address_over() {
    let mut world = Single::new(Vec::new());
    let first = world.add_now(add("a", "c1", "eth0", vec![want("eth0", &[small()])])).unwrap();
    assert_eq!(world.release_now(release("a", "c1", "eth0", PodFate::Alive)).kept.len(), 1);
    assert_eq!(world.add_now(add("a", "c2", "eth0", vec![want("eth0", &[small()])])).unwrap(), first);
    let container = world.api.objects[&first[0].1].claim.pod().unwrap().container.clone();
    assert_eq!(container.as_deref(), Some("c2"));
    let late = world.release_now(release("a", "c1", "eth0", PodFate::Gone));
    assert_eq!(late, Released::default(), "a late DEL of an older sandbox changes nothing");
    assert_eq!(world.release_now(release("a", "c2", "eth0", PodFate::Gone)).freed.len(), 1);
    assert!(world.api.objects.is_empty());
}

#[test]
fn a_release_is_for_one_nic_and_the_last_one_frees_what_nobody_used() {
    let mut world = Single::new(Vec::new());
    let wants = || vec![want("eth0", &[small()]), want("eth1", &[small()]), want("eth2", &[small()])];
    world.add_now(add("a", "c1", "eth0", wants())).unwrap();
    world.add_now(add("a", "c1", "eth1", wants())).unwrap();
    let freed = world.release_now(release("a", "c1", "eth1", PodFate::Gone)).freed;
    let nics: Vec<&str> = freed.iter().map(|claim| claim.pod().unwrap().interface.as_str()).collect();
    assert_eq!(nics, ["eth1", "eth2"], "eth0 is still up, eth2 never was");
    assert_eq!(world.release_now(release("a", "c1", "eth0", PodFate::Gone)).freed.len(), 1);
    assert!(world.api.objects.is_empty());
}

#[test]
fn a_release_without_uid_finds_the_pod_by_its_sandbox() {
    let mut world = Single::new(Vec::new());
    world.add_now(add("a", "c1", "eth0", vec![want("eth0", &[small()])])).unwrap();
    let unnamed = |container: &str| Release {
        pod_uid: None,
        container: container.into(),
        interface: Some("eth0".into()),
        fate: PodFate::Gone,
    };
    assert_eq!(world.release_now(unnamed("other")), Released::default());
    assert_eq!(world.release_now(unnamed("c1")).freed.len(), 1);
}

#[test]
fn what_other_nics_got_is_given_back_when_one_gets_nothing() {
    let mut world = Single::new(Vec::new());
    let empty = pool("empty", "fd00::/64", &[]);
    let error =
        world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()]), want("eth0", &[empty])])).unwrap_err();
    assert!(error.to_string().contains("NIC eth0 IPv6: pool empty: it has no IP addresses"), "{error}");
    assert!(world.api.objects.is_empty());
    assert!(world.claims.is_idle() && world.claims.all().next().is_none());
}

#[test]
fn reserved_addresses_are_never_given() {
    let mut world = Single::new(Vec::new());
    let reserved: SpanSet = ["10.0.0.1-10.0.0.2".parse::<crate::Span>().unwrap()].into_iter().collect();
    let request = |pod: &str| Add {
        reserved: std::sync::Arc::new(reserved.clone()),
        ..add(pod, pod, "eth0", vec![want("eth0", &[small()])])
    };
    assert_eq!(world.add_now(request("a")).unwrap()[0].1, "10.0.0.3".parse::<std::net::IpAddr>().unwrap());
    let error = world.add_now(request("b")).unwrap_err().to_string();
    assert!(error.contains("all its 1 IP addresses are in use (2 more are reserved)"), "{error}");
}

#[test]
fn a_create_that_landed_without_an_answer_is_found_by_reading_back() {
    let mut world = Single::new(Vec::new());
    let ticket = world.ask(|ticket| Event::Add(ticket, add("a", "c", "eth0", vec![want("eth0", &[small()])])));
    let (_, create) = world.calls[0].clone();
    world.api.apply("node", &create, &mut super::world::Random(1));
    world.reply(unknown());
    assert!(world.answers.is_empty(), "nothing is answered before the outcome is known");
    assert!(matches!(world.reply(None), Call::Read(_)));
    assert_eq!(world.added(ticket).unwrap().len(), 1);
    assert_eq!(world.api.objects.len(), 1);
}

#[test]
fn an_add_without_api_server_fails_and_leaves_nothing() {
    let mut world = Single::new(Vec::new());
    let ticket = world.ask(|ticket| Event::Add(ticket, add("a", "c", "eth0", vec![want("eth0", &[small()])])));
    let (_, create) = world.calls[0].clone();
    while world.answers.is_empty() {
        world.reply(unknown());
    }
    let error = world.added(ticket).unwrap_err().to_string();
    assert!(error.starts_with("no answer from the API server (claiming 10.0.0."), "{error}");
    // The create lands at last; the machine still looks for it.
    world.api.apply("node", &create, &mut super::world::Random(1));
    world.settle();
    assert!(world.api.objects.is_empty() && world.claims.is_idle());
}

#[test]
fn a_create_that_lands_after_it_was_given_up_is_found_by_reconciling() {
    let mut world = Single::new(Vec::new());
    world.ask(|ticket| Event::Add(ticket, add("a", "c", "eth0", vec![want("eth0", &[small()])])));
    let (_, create) = world.calls[0].clone();
    while world.answers.is_empty() {
        world.reply(unknown());
    }
    world.settle();
    world.api.apply("node", &create, &mut super::world::Random(1));
    world.event(Event::Reconcile);
    world.settle();
    assert!(world.api.objects.is_empty());
    assert!(world.notes.iter().any(|note| matches!(note, Note::GaveBack(_))));
}

#[test]
fn a_second_add_waits_for_the_first_and_gets_its_answer() {
    let mut world = Single::new(Vec::new());
    let request = || add("a", "c", "eth0", vec![want("eth0", &[small()])]);
    let first = world.ask(|ticket| Event::Add(ticket, request()));
    let second = world.ask(|ticket| Event::Add(ticket, request()));
    assert_eq!(world.calls.len(), 1);
    world.settle();
    assert_eq!(world.added(first), world.added(second));
    assert_eq!(world.api.creates, 1);
}

#[test]
fn a_release_ends_the_add_that_still_runs() {
    let mut world = Single::new(Vec::new());
    let request = || add("a", "c", "eth0", vec![want("eth0", &[small()])]);
    let running = world.ask(|ticket| Event::Add(ticket, request()));
    let waiting = world.ask(|ticket| Event::Add(ticket, request()));
    world.release_now(release("a", "c", "eth0", PodFate::Gone));
    assert_eq!(world.added(running), Err(AddError::Cancelled));
    assert_eq!(world.added(waiting), Err(AddError::Cancelled));
    assert!(world.api.objects.is_empty() && world.claims.is_idle());
}

#[test]
fn a_cancelled_add_is_undone_without_an_answer() {
    let mut world = Single::new(Vec::new());
    let ticket = world.ask(|ticket| Event::Add(ticket, add("a", "c", "eth0", vec![want("eth0", &[small()])])));
    world.event(Event::Cancel(ticket));
    world.settle();
    assert!(world.answers.is_empty() && world.api.objects.is_empty() && world.claims.is_idle());
}

#[test]
fn a_release_that_is_not_confirmed_says_so_and_goes_on() {
    let mut world = Single::new(Vec::new());
    world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    let ticket = world.ask(|ticket| Event::Release(ticket, release("a", "c", "eth0", PodFate::Gone)));
    while !world.answers.contains_key(&ticket) {
        world.reply(unknown());
    }
    assert!(matches!(&world.answers[&ticket], Answer::Released(Err(ReleaseError::Unconfirmed { .. }))));
    world.settle();
    assert!(world.api.objects.is_empty() && world.claims.is_idle());
}

#[test]
fn what_is_asked_for_again_and_again_while_the_api_server_is_away_waits_once() {
    let mut world = Single::new(Vec::new());
    world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    for _ in 0..1000 {
        let ticket = world.ask(|ticket| Event::Release(ticket, release("a", "c", "eth0", PodFate::Gone)));
        world.reply(unknown());
        world.event(Event::Cancel(ticket));
        world.event(Event::PodGone { uid: "uid-of-a".into(), interfaces_gone: false });
    }
    assert_eq!(world.claims.queues["uid-of-a"].len(), 2);
    let last = world.ask(|ticket| Event::Release(ticket, release("a", "c", "eth0", PodFate::Gone)));
    assert_eq!(world.claims.queues["uid-of-a"].len(), 2);
    world.settle();
    assert_eq!(world.answers[&last], Answer::Released(Ok(Released::default())), "freed by the first one");
    assert!(world.api.objects.is_empty() && world.claims.is_idle());
}

#[test]
fn the_proof_that_interfaces_are_gone_is_not_lost_in_a_queue() {
    let mut world = Single::new(Vec::new());
    world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()]), want("eth1", &[small()])])).unwrap();
    let gone = |interfaces_gone| Event::PodGone { uid: "uid-of-a".into(), interfaces_gone };
    // The first one frees eth1, which nobody uses; the others wait for that.
    for proof in [false, false, true, false] {
        world.event(gone(proof));
    }
    assert_eq!(world.claims.queues["uid-of-a"].len(), 1);
    world.settle();
    assert!(world.api.objects.is_empty() && world.claims.is_idle());
}

#[test]
fn a_claim_changed_by_somebody_else_is_read_back_before_it_is_freed() {
    let mut world = Single::new(Vec::new());
    let granted = world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    let object = world.api.objects.get_mut(&granted[0].1).unwrap();
    object.version = "touched".into();
    assert_eq!(world.release_now(release("a", "c", "eth0", PodFate::Gone)).freed.len(), 1);
    assert!(world.api.objects.is_empty());
}

#[test]
fn an_address_that_went_to_somebody_else_is_not_freed() {
    let mut world = Single::new(Vec::new());
    let granted = world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    let object = world.api.objects.get_mut(&granted[0].1).unwrap();
    object.uid = "another".into();
    if let Holder::Pod(pod) = &mut object.claim.holder {
        pod.uid = "stranger".into();
    }
    assert!(world.release_now(release("a", "c", "eth0", PodFate::Gone)).freed.is_empty());
    assert_eq!(world.api.objects.len(), 1);
    assert!(matches!(world.notes[..], [Note::Foreign(_)]));
}

#[test]
fn a_claim_in_use_that_was_removed_is_made_again() {
    let mut world = Single::new(Vec::new());
    let granted = world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    world.api.objects.clear();
    world.event(Event::Reconcile);
    world.settle();
    assert!(world.api.objects.contains_key(&granted[0].1));
    assert!(matches!(world.notes[..], [Note::Restored(_)]));
}

#[test]
fn a_comparison_whose_list_fails_is_not_forgotten() {
    let mut world = with(vec![stored("10.0.0.1", "a", "c", "eth0")]);
    let late = stored("10.0.0.2", "b", "former", "eth0");
    world.api.objects.insert(late.claim.address, late);
    world.event(Event::Reconcile);
    for outcome in [Outcome::Unknown("timed out".into()), Outcome::Refused("forbidden".into())] {
        assert_eq!(world.reply(Some(outcome)), Call::ListNode);
        assert!(matches!(world.calls[..], [(_, Call::ListNode)]), "{:?}", world.calls);
    }
    world.settle();
    assert_eq!(world.claims.all().count(), 2);
    assert!(world.claims.is_idle());
}

#[test]
fn a_comparison_that_is_asked_for_during_another_one_sees_what_that_one_is_too_old_for() {
    let mut world = Single::new(Vec::new());
    world.event(Event::Reconcile);
    let (op, call) = world.calls.remove(0);
    let old = world.api.apply("node", &call, &mut super::world::Random(1));
    let late = imported("a", "eth0", "10.0.0.2");
    world.api.objects.insert(late.claim.address, late);
    world.event(Event::Reconcile);
    assert!(world.calls.is_empty(), "one at a time");
    world.event(Event::Reply(op, old));
    world.settle();
    assert_eq!(world.claims.all().count(), 1);
    assert!(world.claims.is_idle());
}

#[test]
fn a_claim_of_a_finished_pod_that_the_controller_freed_is_not_made_again() {
    let mut before = Single::new(Vec::new());
    before.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    before.add_now(add("b", "d", "eth0", vec![want("eth0", &[small()])])).unwrap();
    // A new process, which heard of no DEL; the watch tells that one of the pods has finished.
    let mut world = with(before.api.of_node("node"));
    world.event(Event::PodGone { uid: "uid-of-a".into(), interfaces_gone: false });
    assert!(world.calls.is_empty(), "a sandbox may still be there");
    world.api.objects.clear();
    world.event(Event::Reconcile);
    world.settle();
    let pods: Vec<&str> = world.api.objects.values().map(|stored| stored.claim.pod().unwrap().name.as_str()).collect();
    assert_eq!(pods, ["b"]);
    assert_eq!(world.claims.all().count(), 1);
    assert!(matches!(world.notes[..], [Note::Restored(_)]));
}

#[test]
fn whenever_a_pod_has_a_claim_less_it_is_said() {
    let begin = || {
        let mut world = Single::new(Vec::new());
        let granted = world.add_now(add("a", "c", "eth0", vec![want("eth0", &[one()])])).unwrap();
        assert!(world.freed.is_empty());
        (world, granted[0].1)
    };
    let (mut world, _) = begin();
    world.release_now(release("a", "c", "eth0", PodFate::Gone));
    assert_eq!(world.freed, ["a"], "a release");
    let (mut world, address) = begin();
    world.event(Event::PodGone { uid: "uid-of-a".into(), interfaces_gone: false });
    world.api.objects.remove(&address);
    world.event(Event::Reconcile);
    world.settle();
    assert_eq!((world.freed.as_slice(), world.claims.all().count()), (["a".to_owned()].as_slice(), 0), "somebody else");
    let (mut world, address) = begin();
    world.api.objects.remove(&address);
    world.api.objects.insert(address, stored("10.0.0.1", "b", "d", "eth0"));
    world.event(Event::Reconcile);
    world.settle();
    assert_eq!((world.freed.as_slice(), world.claims.all().count()), (["a".to_owned()].as_slice(), 1), "another's now");
    let (mut world, address) = begin();
    world.api.objects.remove(&address);
    world.add_now(add("a", "c2", "eth0", vec![want("eth0", &[one()])])).unwrap();
    assert_eq!(world.freed, ["a"], "its next sandbox found nothing to take over");
}

#[test]
fn claims_of_a_pod_that_is_gone_wait_for_the_proof_that_its_interfaces_are() {
    let mut world = Single::new(Vec::new());
    world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()]), want("eth1", &[small()])])).unwrap();
    let gone = |interfaces_gone| Event::PodGone { uid: "uid-of-a".into(), interfaces_gone };
    world.event(gone(false));
    world.settle();
    assert_eq!(world.api.objects.len(), 1, "only eth1, which nobody uses, is freed");
    world.event(gone(true));
    world.settle();
    assert!(world.api.objects.is_empty() && world.claims.pods().is_empty());
}

#[test]
fn rejected_addresses_are_freed_although_the_pod_lives() {
    let mut world = Single::new(Vec::new());
    world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    assert_eq!(world.release_now(release("a", "c", "eth0", PodFate::Rejected)).freed.len(), 1);
}

#[test]
fn a_refusal_of_the_api_server_is_told_with_address_and_pool() {
    let mut world = Single::new(Vec::new());
    let ticket = world.ask(|ticket| Event::Add(ticket, add("a", "c", "eth0", vec![want("eth0", &[small()])])));
    world.reply(Some(Outcome::Refused("spiderips is forbidden".into())));
    let error = world.added(ticket).unwrap_err().to_string();
    assert!(
        error.contains("refused the claim of 10.0.0.") && error.contains("in pool small: spiderips is forbidden"),
        "{error}"
    );
    assert!(world.claims.is_idle());
}

#[test]
fn a_create_that_is_never_accepted_ends_the_add() {
    for (answer, told) in [(Outcome::Conflict, "Conflict"), (Outcome::NotFound, "NotFound"), (Outcome::Exists, "taken")]
    {
        let mut world = Single::new(Vec::new());
        let ticket = world.ask(|ticket| Event::Add(ticket, add("a", "c", "eth0", vec![want("eth0", &[one()])])));
        if answer == Outcome::Exists {
            // Otherwise the name is somebody else's.
            world.reply(unknown());
        }
        let mut rounds = 0;
        while !world.answers.contains_key(&ticket) {
            let (create, read) =
                (matches!(world.calls[0].1, Call::Create(_)), matches!(world.calls[0].1, Call::Read(_)));
            assert!(create || read, "{:?}", world.calls);
            rounds += u32::from(create);
            assert!(rounds <= 4, "{answer:?} for ever");
            world.reply(Some(if create { answer.clone() } else { Outcome::NotFound }));
        }
        let error = world.added(ticket).unwrap_err().to_string();
        assert!(
            error.starts_with("API server refused the claim of 10.0.0.1 in pool one: ") && error.contains(told),
            "{error}"
        );
        world.settle();
        assert!(world.claims.is_idle() && world.claims.all().next().is_none());
        assert!(world.add_now(add("b", "b", "eth0", vec![want("eth0", &[one()])])).is_ok(), "the address is free");
    }
}

#[test]
fn a_write_that_always_conflicts_is_not_repeated_without_pause() {
    let mut world = with(vec![stored("10.0.0.1", "a", "c", "eth0")]);
    let mut pauses = Vec::new();
    let mut effects = world.claims.step(Event::PodGone { uid: "uid-of-a".into(), interfaces_gone: true }, &mut || 0);
    for _ in 0..8 {
        let Some(Effect::Call { op, after, call }) = effects.pop() else { panic!("it goes on") };
        pauses.push(after.as_millis());
        let outcome = match call {
            Call::Delete { .. } => Outcome::Conflict,
            call => world.api.apply("node", &call, &mut super::world::Random(1)),
        };
        effects = world.claims.step(Event::Reply(op, outcome), &mut || 0);
    }
    assert!(pauses.last() > Some(&100), "{pauses:?}");
    let mut other = with(vec![stored("10.0.0.1", "a", "c", "eth0")]);
    let ticket = other.ask(|ticket| Event::Add(ticket, add("a", "c2", "eth0", vec![want("eth0", &[one()])])));
    for _ in 0..8 {
        if !other.answers.contains_key(&ticket) {
            let update = matches!(other.calls[0].1, Call::Update { .. });
            other.reply(update.then_some(Outcome::Conflict));
        }
    }
    let error = other.added(ticket).unwrap_err().to_string();
    assert!(error.contains("taking 10.0.0.1 over") && error.contains("Conflict"), "{error}");
}

#[test]
fn an_add_for_nothing_says_so() {
    let mut world = Single::new(Vec::new());
    let error = world.add_now(add("a", "c", "eth0", Vec::new())).unwrap_err().to_string();
    assert_eq!(error, "pod ns/a (uid-of-a) has no address on NIC eth0 and no pool was selected for it");
}

#[test]
fn a_freed_address_rests_while_others_are_free() {
    let mut world = Single::new(Vec::new());
    let wide = pool("wide", "10.0.0.0/24", &["10.0.0.1-10.0.0.100"]);
    let mut seen = std::collections::BTreeSet::new();
    for pod in 0..100 {
        let name = format!("p{pod}");
        let granted = world.add_now(add(&name, "c", "eth0", vec![want("eth0", std::slice::from_ref(&wide))])).unwrap();
        assert!(seen.insert(granted[0].1), "{} came back after {pod} pods", granted[0].1);
        world.release_now(release(&name, "c", "eth0", PodFate::Gone));
    }
}

fn one() -> Pool {
    pool("one", "10.0.0.0/24", &["10.0.0.1"])
}

#[test]
fn an_address_that_somebody_else_freed_serves_the_next_pod_of_a_full_pool() {
    let mut world = Single::new(Vec::new());
    let granted = world.add_now(add("a", "a", "eth0", vec![want("eth0", &[one()])])).unwrap();
    world.event(Event::PodGone { uid: "uid-of-a".into(), interfaces_gone: false });
    world.api.objects.remove(&granted[0].1);
    assert_eq!(world.add_now(add("b", "b", "eth0", vec![want("eth0", &[one()])])).unwrap(), granted);
    assert_eq!(world.claims.all().count(), 1);
    assert!(world.claims.is_idle());
}

#[test]
fn a_claim_in_use_that_the_list_of_its_pool_does_not_show_is_made_again() {
    let mut world = Single::new(Vec::new());
    let granted = world.add_now(add("a", "a", "eth0", vec![want("eth0", &[one()])])).unwrap();
    world.api.objects.remove(&granted[0].1);
    let error = world.add_now(add("b", "b", "eth0", vec![want("eth0", &[one()])])).unwrap_err();
    assert!(error.to_string().contains("all its 1 IP addresses are in use"), "{error}");
    assert_eq!(world.api.objects[&granted[0].1].claim.pod().unwrap().name, "a");
    assert!(matches!(world.notes[..], [Note::Restored(_)]));
}

#[test]
fn what_cannot_be_read_does_not_hold_up_who_needs_an_address() {
    let mut world = Single::new(Vec::new());
    let granted = world.add_now(add("a", "a", "eth0", vec![want("eth0", &[one()])])).unwrap();
    world.event(Event::PodGone { uid: "uid-of-a".into(), interfaces_gone: false });
    world.api.objects.remove(&granted[0].1);
    let ticket = world.ask(|ticket| Event::Add(ticket, add("b", "b", "eth0", vec![want("eth0", &[one()])])));
    while !world.answers.contains_key(&ticket) {
        let read = matches!(world.calls[0].1, Call::Read(_));
        world.reply(if read { unknown() } else { None });
    }
    assert!(matches!(world.added(ticket), Err(AddError::UsedOut { .. })));
    world.settle();
    assert!(world.claims.is_idle());
}

/// A claim as some process made it.
fn stored(address: &str, pod: &str, container: &str, interface: &str) -> Stored {
    let uid = format!("uid-of-{pod}");
    let holder = PodHolder {
        namespace: "ns".into(),
        name: pod.into(),
        uid,
        container: Some(container.into()),
        interface: interface.into(),
        node: "node".into(),
    };
    let claim = Claim {
        address: address.parse().unwrap(),
        pool: "small".into(),
        state: State::Allocated,
        holder: Holder::Pod(holder),
        mac: None,
    };
    Stored { claim, uid: format!("uid-{address}"), version: "1".into() }
}

#[test]
fn a_late_create_of_a_former_process_is_given_back_when_its_use_is_served() {
    let mut world = Single::new(Vec::new());
    world.add_now(add("a", "c", "eth0", vec![want("eth0", &[pool("other", "10.9.0.0/24", &["10.9.0.1"])])])).unwrap();
    for (address, pod, interface) in [("10.0.0.1", "a", "eth0"), ("10.0.0.2", "b", "eth0")] {
        let late = stored(address, pod, "former", interface);
        world.api.objects.insert(late.claim.address, late);
    }
    world.event(Event::Reconcile);
    world.settle();
    let left: Vec<String> = world.api.objects.keys().map(ToString::to_string).collect();
    assert_eq!(left, ["10.0.0.2", "10.9.0.1"], "the one of the other pod may serve its next ADD");
    assert_eq!(
        world.add_now(add("b", "c2", "eth0", vec![want("eth0", &[small()])])).unwrap()[0].1.to_string(),
        "10.0.0.2"
    );
}

#[test]
fn of_two_claims_for_one_use_the_sandbox_keeps_its_own() {
    let known = [stored("10.0.0.1", "a", "c1", "eth0"), stored("10.0.0.2", "a", "c2", "eth0")];
    let mut world = Single::new(known.to_vec());
    world.api.objects.extend(known.into_iter().map(|stored| (stored.claim.address, stored)));
    let granted = world.add_now(add("a", "c2", "eth0", vec![want("eth0", &[small()])])).unwrap();
    assert_eq!((granted.len(), granted[0].1.to_string()), (1, "10.0.0.2".to_owned()));
    assert_eq!(world.api.objects.len(), 1, "the former sandbox is over, its claim is free");
}

#[test]
fn only_a_list_that_is_exact_and_young_enough_proves_a_pool_used_up() {
    let mut world = Single::new(Vec::new());
    for pod in ["a", "b", "c"] {
        world.add_now(add(pod, pod, "eth0", vec![want("eth0", &[small()])])).unwrap();
    }
    let request = |pod: &str| add(pod, pod, "eth0", vec![want("eth0", &[small()])]);
    let early = world.ask(|ticket| Event::Add(ticket, request("d")));
    assert!(matches!(world.reply(None), Call::List { fresh: false, .. }), "a hint first");
    assert!(matches!(world.calls[0].1, Call::List { fresh: true, .. }), "then an exact answer");
    // Another ADD comes while that list is under way; then an address becomes free.
    let late = world.ask(|ticket| Event::Add(ticket, request("e")));
    let full = world.api.apply("node", &world.calls[0].1.clone(), &mut super::world::Random(1));
    let freed = world.api.objects.keys().next().copied().unwrap();
    world.api.objects.remove(&freed);
    world.event(Event::Reconcile);
    world.reply(Some(full));
    assert!(matches!(world.added(early), Err(AddError::UsedOut { .. })));
    assert!(!world.answers.contains_key(&late), "the list is older than this ADD");
    assert!(world.calls.iter().any(|(_, call)| matches!(call, Call::List { fresh: true, .. })));
}

#[test]
fn a_pool_that_cannot_be_listed_fails_the_add_with_the_reason() {
    let mut world = Single::new(Vec::new());
    let empty = pool("small", "10.0.0.0/24", &["10.0.0.1"]);
    world.add_now(add("a", "a", "eth0", vec![want("eth0", std::slice::from_ref(&empty))])).unwrap();
    let ticket = world.ask(|ticket| Event::Add(ticket, add("b", "b", "eth0", vec![want("eth0", &[empty])])));
    while !world.answers.contains_key(&ticket) {
        world.reply(unknown());
    }
    let error = world.added(ticket).unwrap_err().to_string();
    assert_eq!(error, "no answer from the API server (listing the addresses of pool small): timed out");
    assert!(world.claims.is_idle());
}

#[test]
fn a_create_that_lands_between_two_attempts_is_recognised() {
    let mut world = Single::new(Vec::new());
    let ticket = world.ask(|ticket| Event::Add(ticket, add("a", "c", "eth0", vec![want("eth0", &[small()])])));
    let (_, create) = world.calls[0].clone();
    world.reply(unknown());
    assert!(matches!(world.reply(None), Call::Read(_)));
    assert_eq!(world.calls[0].1, create, "the same address again, never another one beside it");
    world.api.apply("node", &create, &mut super::world::Random(1));
    world.settle();
    assert_eq!((world.added(ticket).unwrap().len(), world.api.objects.len()), (1, 1));
}

#[test]
fn a_list_of_the_node_that_is_older_than_a_release_brings_nothing_back() {
    let mut world = Single::new(Vec::new());
    world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    world.event(Event::Reconcile);
    let (op, call) = world.calls.remove(0);
    let old = world.api.apply("node", &call, &mut super::world::Random(1));
    world.release_now(release("a", "c", "eth0", PodFate::Gone));
    world.event(Event::Reply(op, old));
    world.settle();
    assert!(world.claims.all().next().is_none() && world.notes.is_empty());
}

#[test]
fn a_list_of_the_node_that_is_older_than_a_claim_does_not_take_it_away() {
    let mut world = Single::new(Vec::new());
    world.event(Event::Reconcile);
    let (op, call) = world.calls.remove(0);
    let old = world.api.apply("node", &call, &mut super::world::Random(1));
    world.add_now(add("a", "c", "eth0", vec![want("eth0", &[small()])])).unwrap();
    world.event(Event::Reply(op, old));
    assert!(world.calls.is_empty() && world.claims.all().count() == 1);
}

/// A claim as the import makes it: no container, perhaps no interface.
fn imported(pod: &str, interface: &str, address: &str) -> Stored {
    let holder = PodHolder {
        namespace: "ns".into(),
        name: pod.into(),
        uid: format!("uid-of-{pod}"),
        container: None,
        interface: interface.into(),
        node: "node".into(),
    };
    let claim = Claim {
        address: address.parse().unwrap(),
        pool: "small".into(),
        state: State::Allocated,
        holder: Holder::Pod(holder),
        mac: None,
    };
    Stored { claim, uid: format!("o-{address}"), version: "0".into() }
}

fn with(stored: Vec<Stored>) -> Single {
    let mut world = Single::new(stored.clone());
    world.api.objects.extend(stored.into_iter().map(|stored| (stored.claim.address, stored)));
    world
}

#[test]
fn an_imported_claim_is_released_by_the_pods_uid_alone() {
    for interface in ["eth0", ""] {
        let mut world = with(vec![imported("a", interface, "10.0.0.2"), imported("b", interface, "10.0.0.3")]);
        assert_eq!(world.release_now(release("a", "whichever", "eth0", PodFate::Alive)).kept.len(), 1);
        assert_eq!(world.release_now(release("a", "whichever", "eth0", PodFate::Gone)).freed.len(), 1);
        let left: Vec<_> = world.api.objects.keys().map(ToString::to_string).collect();
        assert_eq!(left, ["10.0.0.3"], "another pod's stays");
    }
}

#[test]
fn an_imported_claim_is_taken_over_by_the_pods_next_sandbox() {
    for interface in ["eth0", ""] {
        let mut world = with(vec![imported("a", interface, "10.0.0.2")]);
        let granted = world.add_now(add("a", "c2", "eth0", vec![want("eth0", &[small()])])).unwrap();
        assert_eq!(granted, [("eth0".to_owned(), "10.0.0.2".parse().unwrap())]);
        let holder = world.api.objects[&granted[0].1].claim.pod().unwrap().clone();
        assert_eq!((holder.container.as_deref(), holder.interface.as_str()), (Some("c2"), "eth0"));
        assert_eq!((world.api.creates, world.api.objects.len()), (0, 1));
        assert_eq!(world.release_now(release("a", "c2", "eth0", PodFate::Gone)).freed.len(), 1);
    }
}

#[test]
fn an_imported_claim_without_nic_serves_only_where_its_pool_is_wanted() {
    let mut world = with(vec![imported("a", "", "10.0.0.2")]);
    let other = pool("other", "10.0.1.0/24", &["10.0.1.9"]);
    let granted = world.add_now(add("a", "c2", "eth0", vec![want("eth0", &[other])])).unwrap();
    assert!(granted.contains(&("eth0".to_owned(), "10.0.1.9".parse().unwrap())), "{granted:?}");
    assert_eq!(world.add_now(add("a", "c2", "net1", vec![want("net1", &[small()])])).unwrap().len(), 2);
    assert_eq!(world.api.objects.len(), 2);
}

#[test]
fn a_want_without_pools_is_served_by_what_the_nic_has_and_by_nothing_else() {
    let mut world = with(vec![imported("a", "eth0", "10.0.0.2"), imported("a", "", "10.0.0.3")]);
    let wants = || vec![Want { pools: Vec::new(), ..want("eth0", &[small()]) }];
    let granted = world.add_now(add("a", "c2", "eth0", wants())).unwrap();
    let expected = [("eth0", "10.0.0.2"), ("", "10.0.0.3")];
    assert_eq!(granted, expected.map(|(nic, address)| (nic.to_owned(), address.parse().unwrap())));
    assert_eq!((world.api.creates, world.api.objects.len()), (0, 2), "the address without NIC is left for another one");
    world.api.objects.remove(&granted[0].1);
    let error = world.add_now(add("a", "c3", "eth0", wants())).unwrap_err();
    assert!(matches!(error, AddError::UsedOut { .. }), "{error}");
    assert_eq!(world.api.creates, 0);
}

#[test]
fn a_claim_that_is_imported_while_the_agent_runs_counts_as_in_use() {
    let mut world = with(Vec::new());
    let late = imported("a", "eth0", "10.0.0.2");
    world.api.objects.insert(late.claim.address, late);
    let effects = world.claims.step(Event::Reconcile, &mut || 0);
    assert!(matches!(effects.as_slice(), [Effect::Call { call: Call::ListNode, .. }]));
    let Effect::Call { op, .. } = effects[0] else { unreachable!() };
    let listed = Outcome::Claims(world.api.of_node("node"));
    world.claims.step(Event::Reply(op, listed), &mut || 0);
    let gone = world.claims.step(Event::PodGone { uid: "uid-of-a".into(), interfaces_gone: false }, &mut || 0);
    assert_eq!(gone, [], "a sandbox may still use it");
    assert_eq!(world.release_now(release("a", "x", "eth0", PodFate::Gone)).freed.len(), 1);
}
