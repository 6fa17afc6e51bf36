//! What every transport must do. Cases that gRPC's interoperability tests have bear their names.

pub mod breach;
pub mod calls;
pub mod crash;
pub mod flow;
pub mod footprint;
pub mod hostile;
pub mod impostor;
pub mod life;
pub mod metadata;
pub mod progress;
pub mod sizes;
mod stranger;
pub mod support;
pub mod time;
pub mod wire;

use std::future::Future;
use std::pin::Pin;

use crate::harness::Place;

/// The cases by where they make sense; `$then!` gets them with whatever else was given.
#[macro_export]
macro_rules! case_list {
    (everywhere $then:ident $($with:tt)*) => { $crate::$then! { $($with)*
        calls: empty_unary large_unary client_streaming server_streaming ping_pong half_duplex
            empty_stream every_code special_status_message status_code_and_message rich_status
            failure_after_messages early_answer unimplemented_method unimplemented_service
            unknown_method wrong_message_type wrong_message_type_in_streams handler_panic
            handler_sees_its_connection concurrent_large_unary rpc_soak;
        metadata: custom_metadata metadata_of_every_kind metadata_too_long;
        sizes: every_threshold streams_of_every_size short_messages_together four_mib_limit limits_of_one_client
            configured_send_limit;
        time: timeout_on_sleeping_server deadline_travels deadline_drops_the_handler
            deadline_of_a_stream deadline_while_blocked cancel_after_begin cancel_after_first_response
            dropped_call_cancels_the_handler cancelled_in_the_middle_of_a_send
            thousand_cancelled_calls;
        flow: stopped_reader_stops_only_its_stream stopped_server_reader_stops_only_its_stream
            thousand_streams more_calls_than_streams slow_duplex_both_ways idle_then_burst
            many_threads_one_connection callers_on_other_threads;
        life: graceful_shutdown handover channel_soak reconnect restart_under_load;
    } };
    (heavy $then:ident $($with:tt)*) => { $crate::$then! { $($with)*
        sizes: sixty_four_mib_both_ways sixty_four_mib_streams;
    } };
    (sockets $then:ident $($with:tt)*) => { $crate::$then! { $($with)*
        life: max_connections flood_beyond_max_connections two_hundred_connections
            connections_leave_nothing wrong_first_start;
        hostile: garbage http_preface truncated_hello oversized_lengths wrong_version
            half_open_by_the_hundred silence_after_handshake shutdown_among_strangers;
        breach: bad_frames_are_named noise frames_no_link_takes endless_message beyond_the_window
            full_windows_of_many_streams asks_and_never_reads;
        wire: cut_at_any_byte silent_at_any_byte;
        impostor: other_protocols silence hang_up refusal oversized_reply unasked_transport;
        progress: from_main;
    } };
    (processes $then:ident $($with:tt)*) => { $crate::$then! { $($with)*
        crash: killed_server killed_client stopped_server stopped_client;
    } };
    (shared_memory $then:ident $($with:tt)*) => { $crate::$then! { $($with)*
        footprint: connections_cost_what_is_stated;
    } };
    (rings $then:ident $($with:tt)*) => { $crate::$then! { $($with)*
        progress: busy adaptive event mixed small_rings single_thread;
        flow: two_hundred_full_rings;
    } };
}

/// One `#[test]` for each case of a list, at one place: `conformance_tests!(everywhere, PLACE)`.
#[macro_export]
macro_rules! conformance_tests {
    ($list:ident, $place:expr $(, #[$attribute:meta])?) => {
        $crate::case_list! { $list conformance_tests @tests $place, [$(#[$attribute])?]; }
    };
    (@tests $place:expr, $attributes:tt; $($module:ident: $($case:ident)*;)*) => { $($(
        $crate::conformance_tests! { @test $place, $attributes; $module $case }
    )*)* };
    (@test $place:expr, [$(#[$attribute:meta])?]; $module:ident $case:ident) => {
        #[test]
        $(#[$attribute])?
        fn $case() {
            let name = concat!(stringify!($module), "::", stringify!($case));
            if $crate::cases::counts_what_a_process_holds(name) {
                $crate::harness::run_isolated(name, $place);
            } else {
                $crate::harness::run(name, $place, $crate::cases::$module::$case);
            }
        }
    };
}

/// A case, its type forgotten.
pub type Case = fn(Place) -> Pin<Box<dyn Future<Output = ()>>>;

#[macro_export]
#[doc(hidden)]
macro_rules! case_table {
    ($name:ident; $($module:ident: $($case:ident)*;)*) => {
        const $name: &[(&str, $crate::cases::Case)] = &[$($(
            (
                concat!(stringify!($module), "::", stringify!($case)),
                |place| Box::pin($crate::cases::$module::$case(place)),
            ),
        )*)*];
    };
}

crate::case_list! { everywhere case_table EVERYWHERE; }
crate::case_list! { heavy case_table HEAVY; }
crate::case_list! { sockets case_table SOCKETS; }
crate::case_list! { processes case_table PROCESSES; }
crate::case_list! { shared_memory case_table SHARED_MEMORY; }
crate::case_list! { rings case_table RINGS; }

fn all() -> impl Iterator<Item = (&'static str, Case)> {
    [EVERYWHERE, HEAVY, SOCKETS, PROCESSES, SHARED_MEMORY, RINGS].into_iter().flatten().copied()
}

/// The names of all cases, `module::case`.
pub fn names() -> impl Iterator<Item = &'static str> {
    all().map(|(name, _)| name)
}

/// The case of this name.
pub fn find(name: &str) -> Option<(&'static str, Case)> {
    all().find(|(known, _)| *known == name)
}

/// Whether a case needs a process that nothing else runs in: it counts what the process holds.
pub fn counts_what_a_process_holds(name: &str) -> bool {
    const MODULES: [&str; 5] = ["breach::", "crash::", "footprint::", "hostile::", "wire::"];
    const CASES: [&str; 2] =
        ["life::connections_leave_nothing", "life::flood_beyond_max_connections"];
    CASES.contains(&name) || MODULES.iter().any(|module| name.starts_with(module))
}
