//! What every engine has to keep. Each check is a function over an [`Engine`]; `contract_tests!` makes tests of them all.

pub(crate) mod catalog;
pub(crate) mod journal;
pub(crate) mod make;
pub(crate) mod rows;

use super::Stores;

/// A way to open one and the same store again and again.
pub(crate) trait Engine: Sync {
    /// Opens it, anew each time; the one before has been dropped. Four shards; small windows, so that their edges are met.
    fn open(&self) -> Stores;
    /// The store as a crash of the machine at this moment would leave it, beside the running one.
    fn crashed(&self) -> Box<dyn Engine>;
}

pub(crate) const SHARDS: u16 = 4;

/// The engine is an `Option`: where there is none on this machine, the tests end at once.
macro_rules! contract_tests {
    ($engine:expr; $($module:ident: $($check:ident)*;)*) => {$(
        mod $module {
            use super::*;
            $(
                #[tokio::test]
                async fn $check() {
                    if let Some(engine) = $engine {
                        crate::store::contract::$module::$check(&engine).await;
                    }
                }
            )*
        }
    )*};
    // The second one is for the checks that copy the whole store as a crash leaves it.
    ($engine:expr, $crashing:expr) => {
        mod crash {
            use super::*;
            crate::store::contract::contract_tests! { $crashing;
                journal:
                    what_was_acknowledged_survives_a_crash;
                rows:
                    what_was_synced_survives_a_crash;
            }
        }
        crate::store::contract::contract_tests! { $engine;
            journal:
                batches_come_back_in_order
                shards_share_a_group_and_keep_apart
                a_sequence_is_taken_once_and_without_gap
                an_old_epoch_is_fenced
                epochs_are_kept
                a_bad_batch_spoils_no_other
                reads_are_bounded
                what_is_trimmed_says_so
                a_window_is_kept_whatever_is_trimmed
                the_feed_wakes_and_counts
                unknown_shards_are_refused;
            rows:
                a_flush_is_there_as_a_whole
                a_former_leaders_flush_is_refused
                a_flush_on_rows_that_have_changed_is_refused
                a_message_is_written_anew_under_its_number
                tenants_see_only_their_own
                the_newest_come_first_and_pages_join
                filters_hold_together
                blocks_are_walked_through
                queues_are_in_the_order_of_acceptance
                open_attempts_are_found
                what_is_due_and_overdue_is_found
                open_messages_are_counted
                a_key_is_remembered_for_a_day
                inbound_is_listed_and_its_positions_kept
                a_scan_shows_one_moment;
            catalog:
                a_transaction_is_all_or_nothing
                errors_have_names
                a_panic_rolls_back
                readers_cannot_write_and_do_not_wait
                concurrent_transactions_do_not_lose_updates
                parameters_go_by_number
                the_tables_are_there;
        }
    };
}
pub(crate) use contract_tests;
