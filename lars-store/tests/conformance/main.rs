//! What every backend must do, checked on an SQLite file and on a real MariaDB.

mod backend;
mod call_status;
mod concurrency;
mod routes;

use backend::Database;

/// Makes a test of each check for each backend.
macro_rules! on_every_backend {
    ($($room:ident::$check:ident),+ $(,)?) => {
        mod sqlite {
            $(#[test] fn $check() { super::$room::$check(&super::Database::sqlite()); })+
        }
        mod mysql {
            $(#[test] fn $check() { super::$room::$check(&super::Database::mysql(stringify!($check))); })+
        }
    };
}

on_every_backend! {
    routes::an_empty_database_has_nothing,
    routes::adding_and_removing,
    routes::edits_that_change_nothing_leave_the_version,
    routes::edits_are_made_in_their_order,
    routes::replacing_and_removing_whole_modules,
    routes::one_edit_of_many_rows,
    routes::a_refused_edit_leaves_no_trace,
    routes::a_failing_statement_leaves_no_trace,
    routes::every_id_and_address_survives,
    routes::rows_that_name_no_host_are_counted,
    routes::a_removed_module_leaves_no_rows,
    routes::ten_thousand_modules_load_in_order,
    routes::at_most_so_many_hosts,
    routes::changes_after_a_cursor,
    routes::pruning_by_age,
    routes::pruning_more_than_one_statement_deletes,
    routes::change_ids_never_come_again,
    routes::versions_follow_the_clock_and_each_other,
    routes::a_missing_version_row_is_made_again,
    routes::a_load_says_how_far_the_database_was,
    routes::a_version_that_cannot_be_read_stops_nothing,
    routes::what_is_accepted_is_told_with_each_load,
    call_status::an_empty_database_has_nothing_to_tell,
    call_status::a_row_never_grows_older,
    call_status::one_batch_with_a_key_twice,
    call_status::many_rows_ordered_by_key,
    call_status::every_number_survives,
    call_status::a_time_stamp_from_the_far_future_is_healed,
    call_status::checking_writes_nothing,
    call_status::old_rows_leave_in_steps,
    call_status::a_failing_row_leaves_no_trace_of_its_batch,
    concurrency::eight_editors,
    concurrency::eight_writers_of_the_same_rows,
    concurrency::a_load_sees_whole_edits,
}
