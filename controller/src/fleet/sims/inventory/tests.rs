//! The plan for an inventory: SIMs are found again, moved and told apart, whatever a device lists.

use flotilla_protocol::number::{Iccid, Imsi, Msisdn};

use super::*;

const CARD: &str = "8901410321111851072";

fn ids() -> (TenantId, DeviceId, DeviceId) {
    (TenantId::new(1, [1; 10]), DeviceId::new(2, [2; 10]), DeviceId::new(3, [3; 10]))
}

fn info(slot: u8, iccid: Option<&str>) -> SimInfo {
    SimInfo {
        slot,
        state: SimState::Ready,
        iccid: iccid.map(|text| Iccid::parse(text).unwrap()),
        imsi: None,
        msisdn: None,
        home: None,
        operator: "Op".into(),
        depth: 1,
    }
}

/// What the catalog has: the rows, and the last card of each slot.
#[derive(Clone, Default)]
struct Kept {
    rows: Vec<Sim>,
    slots: Vec<(DeviceId, u8, SimId)>,
}

impl std::ops::Deref for Kept {
    type Target = [Sim];

    fn deref(&self) -> &[Sim] {
        &self.rows
    }
}

fn step(device: DeviceId, kept: &Kept, seen: &[SimInfo], now_ms: u64) -> (Plan, Kept) {
    step_holding(HoldNewSims::Changed, device, kept, seen, now_ms)
}

/// Plans, and gives what is kept afterwards.
fn step_holding(hold: HoldNewSims, device: DeviceId, kept: &Kept, seen: &[SimInfo], now_ms: u64) -> (Plan, Kept) {
    let mut number = kept.len() as u64;
    let fresh = || {
        number += 1;
        SimId::new(number, [9; 10])
    };
    let known: Vec<Sim> = kept
        .iter()
        .filter(|row| row.device == Some(device) || seen.iter().any(|info| identity(device, info) == row.iccid))
        .cloned()
        .collect();
    let here = kept.slots.iter().filter(|(owner, ..)| *owner == device);
    let former: Vec<_> = here.map(|(_, slot, sim)| (*slot, *sim)).collect();
    let plan = plan(Inventory { tenant: ids().0, device, hold, now_ms }, &known, &former, seen, fresh);
    let mut kept = kept.clone();
    for write in &plan.writes {
        *kept.rows.iter_mut().find(|row| row.id == write.id).unwrap() = write.clone();
    }
    kept.rows.extend(plan.inserts.clone());
    for (slot, sim) in &plan.slots {
        kept.slots.retain(|(owner, known, _)| (*owner, *known) != (device, *slot));
        kept.slots.push((device, *slot, *sim));
    }
    let of_plan: Vec<_> = plan.present.iter().map(|sim| (sim.slot.unwrap(), sim.id)).collect();
    assert_eq!(of_plan, plan.ids);
    (plan, kept)
}

fn changes(plan: &Plan) -> Vec<SimChange> {
    plan.changes.iter().map(|(_, change)| *change).collect()
}

#[test]
fn a_card_keeps_its_id_through_slots_and_devices() {
    let (_, a, b) = ids();
    let (first, rows) = step(a, &Kept::default(), &[info(0, Some(CARD))], 1);
    assert_eq!(changes(&first), [SimChange::New]);
    let id = first.ids[0].1;

    let (same, rows) = step(a, &rows, &[info(0, Some(CARD))], 2);
    assert!(same.is_empty() && same.changes.is_empty());
    assert_eq!(same.ids, [(0, id)]);

    let (slot, rows) = step(a, &rows, &[info(1, Some(CARD))], 3);
    assert_eq!((changes(&slot), slot.ids), (vec![SimChange::Moved], vec![(1, id)]));
    let (moved, rows) = step(b, &rows, &[info(0, Some(CARD))], 4);
    assert_eq!((changes(&moved), moved.ids), (vec![SimChange::Moved], vec![(0, id)]));
    let (gone, rows) = step(a, &rows, &[], 5);
    assert!(gone.is_empty(), "it is another device's by now");

    let mut renumbered = info(0, Some(CARD));
    renumbered.msisdn = Some(Msisdn::parse("+255712345678").unwrap());
    let (changed, rows) = step(b, &rows, &[renumbered], 6);
    assert_eq!(changes(&changed), [SimChange::Changed]);
    let (removed, rows) = step(b, &rows, &[], 7);
    assert_eq!(changes(&removed), [SimChange::Removed]);
    assert_eq!((rows[0].device, rows[0].slot, rows.len()), (None, None, 1));
}

#[test]
fn being_seen_is_written_once_an_hour() {
    let (_, a, _) = ids();
    let (_, rows) = step(a, &Kept::default(), &[info(0, Some(CARD))], 0);
    assert!(step(a, &rows, &[info(0, Some(CARD))], SEEN_EVERY_MS - 1).0.is_empty());
    let (plan, rows) = step(a, &rows, &[info(0, Some(CARD))], SEEN_EVERY_MS);
    assert!(!plan.is_empty() && plan.changes.is_empty());
    assert_eq!((rows[0].first_seen_ms, rows[0].last_seen_ms), (0, SEEN_EVERY_MS));
}

#[test]
fn unreadable_cards_are_known_by_their_place() {
    let (_, a, b) = ids();
    let (first, rows) = step(a, &Kept::default(), &[info(0, None), info(1, None)], 1);
    assert_eq!(first.ids.len(), 2);
    let (again, rows) = step(a, &rows, &[info(1, None), info(0, None)], 2);
    assert!(again.is_empty());
    let (other, _) = step(b, &rows, &[info(0, None)], 3);
    assert_eq!(changes(&other), [SimChange::New]);
}

#[test]
fn one_card_in_two_slots_counts_once() {
    let (_, a, _) = ids();
    let twice = [info(0, Some(CARD)), info(1, Some(CARD))];
    let (first, rows) = step(a, &Kept::default(), &twice, 1);
    assert_eq!((first.ids.len(), rows.len()), (1, 1));
    let (again, rows) = step(a, &rows, &twice, 2);
    assert!(again.is_empty());
    assert_eq!((again.ids.len(), rows.len()), (1, 1));
}

#[test]
fn inventories_are_bounded() {
    let empty = SimInfo { state: SimState::Absent, ..info(9, None) };
    let long = SimInfo { operator: "ö".repeat(100), ..info(1, None) };
    let kept = bounded(&[empty, long, info(1, Some(CARD))]);
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].operator.len(), OPERATOR_BYTES_MAX);
    let many: Vec<SimInfo> = (0..=255).map(|slot| info(slot, None)).collect();
    assert_eq!(bounded(&many).len(), SIMS_MAX);
}

#[test]
fn debug_keeps_the_numbers_to_itself() {
    let (_, a, _) = ids();
    let personal = SimInfo { imsi: Some(Imsi::parse("640021234567890").unwrap()), ..info(0, Some(CARD)) };
    let (_, rows) = step(a, &Kept::default(), &[personal], 1);
    let shown = format!("{:?}", rows[0]);
    assert!(!shown.contains(CARD) && !shown.contains("640021234567890"), "{shown}");
}

const OTHER: &str = "8944110068040085321";
const THIRD: &str = "8925504000000000019";

#[test]
fn a_new_card_in_the_place_of_another_is_held() {
    let (_, a, b) = ids();
    let (first, kept) = step(a, &Kept::default(), &[info(0, Some(CARD))], 1);
    let card = first.ids[0].1;
    assert!(!kept[0].held, "the first card of a slot is let through");
    let (swapped, kept) = step(a, &kept, &[info(0, Some(OTHER))], 2);
    let other = swapped.ids[0].1;
    assert_eq!(changes(&swapped), [SimChange::Replaced { former: card, held: true }, SimChange::Removed]);
    assert!(swapped.present[0].held && kept[1].held);
    // It stays held wherever it goes, and until a person says otherwise.
    let (elsewhere, kept) = step(b, &kept, &[info(3, Some(OTHER))], 3);
    assert!(elsewhere.present[0].held);
    // The known card comes back: nobody has to confirm it.
    let (back, kept) = step(a, &kept, &[info(0, Some(CARD))], 4);
    assert_eq!((changes(&back), back.present[0].held), (vec![SimChange::Moved], false));
    // Taken out, and another one put in days later.
    let (_, kept) = step(a, &kept, &[], 5);
    let (later, kept) = step(a, &kept, &[info(0, Some(THIRD))], 6);
    assert_eq!(changes(&later), [SimChange::Replaced { former: card, held: true }]);
    assert_ne!(later.ids[0].1, other);
    let (same, _) = step(a, &kept, &[info(0, Some(THIRD))], 7);
    assert!(same.is_empty() && same.present[0].held);
}

#[test]
fn cards_that_tell_no_number_replace_nobody() {
    let (_, a, _) = ids();
    let (_, kept) = step(a, &Kept::default(), &[info(0, None)], 1);
    let (first, kept) = step(a, &kept, &[info(0, Some(CARD))], 2);
    assert_eq!(changes(&first)[0], SimChange::New, "its number could not be read before");
    let (unreadable, kept) = step(a, &kept, &[info(0, None)], 3);
    assert!(!unreadable.present[0].held);
    let (swapped, _) = step(a, &kept, &[info(0, Some(OTHER))], 4);
    assert!(swapped.present[0].held, "not to be got round by hiding the number between");
}

#[test]
fn new_cards_are_let_through_where_that_is_set() {
    let (_, a, _) = ids();
    let (first, kept) = step(a, &Kept::default(), &[info(0, Some(CARD))], 1);
    let (swapped, _) = step_holding(HoldNewSims::Never, a, &kept, &[info(0, Some(OTHER))], 2);
    assert_eq!(changes(&swapped)[0], SimChange::Replaced { former: first.ids[0].1, held: false });
    assert!(!swapped.present[0].held);
}
