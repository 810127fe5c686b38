//! The weights never change, spread the shards, and move no more of them than they must.

use proptest::prelude::*;

use super::*;

const SHARDS: u16 = 64;

fn leader(shard: u16, members: &[NodeName]) -> &NodeName {
    members.iter().max_by_key(|name| weight(ShardId(shard), name)).unwrap()
}

#[test]
fn the_weights_are_what_they_have_always_been() {
    let golden = [
        (0, "a", 0x60ce_98bb_0f8c_80c3),
        (1, "a", 0xbc9c_e2cd_b6ba_4172),
        (63, "node-1.example.org", 0x57d4_9c98_05ab_8118),
        (65_535, "controller-3", 0xa6bb_096d_b790_6333),
    ];
    for (shard, text, expected) in golden {
        assert_eq!(weight(ShardId(shard), &name(text)), expected, "shard {shard}, {text}");
    }
}

fn members() -> impl Strategy<Value = Vec<NodeName>> {
    prop::collection::btree_set("[a-z][a-z0-9-]{0,12}[a-z0-9]", 3..=10)
        .prop_map(|names| names.iter().map(|text| name(text)).collect())
}

proptest! {
    #[test]
    fn only_the_shards_of_a_member_that_comes_or_goes_move(members in members(), gone in any::<prop::sample::Index>()) {
        let gone = gone.get(&members).clone();
        let rest = members.iter().filter(|name| **name != gone).cloned().collect::<Vec<_>>();
        for shard in 0..SHARDS {
            let before = leader(shard, &members);
            prop_assert!(*before == gone || before == leader(shard, &rest));
        }
    }

    /// Five standard deviations of a fair throw, which no set of names that anybody chooses should exceed.
    #[test]
    fn shards_are_spread_over_the_members(members in members()) {
        let share = f64::from(SHARDS) / members.len() as f64;
        let bound = share + 5.0 * (share * (1.0 - 1.0 / members.len() as f64)).sqrt();
        for name in &members {
            let led = (0..SHARDS).filter(|shard| leader(*shard, &members) == name).count();
            prop_assert!((led as f64) < bound, "{name} leads {led} of {SHARDS} with {} members", members.len());
        }
    }
}

/// With names as people give them, nobody is left without shards.
#[test]
fn numbered_nodes_all_get_a_fair_share() {
    for count in 3..=10_usize {
        let members = (1..=count).map(|number| name(&format!("node-{number}"))).collect::<Vec<_>>();
        let led = members.iter().map(|name| (0..SHARDS).filter(|shard| leader(*shard, &members) == name).count());
        let led = led.collect::<Vec<_>>();
        let share = usize::from(SHARDS) / count;
        assert!(led.iter().all(|led| (share / 3..=share * 2 + 2).contains(led)), "{count} members: {led:?}");
    }
}
