//! What runtimes are known to do otherwise than the specification says, and why.

use crate::case::Runtime;

/// Runtime, test, reason. Of runc 1.1 and crun 1.8, which Debian 12 has; newer ones do some of it.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("brig-runtime", "a_created_container_is_not_deleted", AS_RUNC),
    ("runc", "a_created_container_is_not_deleted", "deletes it, and engines rely on that"),
    ("crun", "a_created_container_is_not_deleted", AS_RUNC),
    ("runc", "an_empty_key_is_an_error", "takes it as it is"),
    ("crun", "an_empty_key_is_an_error", "takes it as it is"),
    ("runc", "versions_of_another_major_are_refused", "does not look at the version"),
    ("runc", "a_limit_named_twice_is_refused", "takes the last"),
    ("crun", "a_limit_named_twice_is_refused", "takes the last"),
    ("crun", "a_relative_working_directory_is_refused", "enters it from the root"),
    ("crun", "invalid_values_are_errors", "reads a word in a number's place as 0"),
    ("runc", "propagation_of_the_root", "the root of a shared container stays private"),
    ("runc", "an_unbindable_root", "makes the root unbindable before it binds it"),
    ("runc", "a_root_that_hears_of_the_hosts_mounts", PRIVATE_FIRST),
    ("crun", "a_root_that_hears_of_the_hosts_mounts", PRIVATE_FIRST),
    ("runc", "hooks_are_called_in_order", POSTSTART_EARLY),
    ("runc", "the_state_comes_on_stdin", POSTSTART_EARLY),
    ("runc", "poststart_hooks_run_before_start_returns", POSTSTART_EARLY),
    ("runc", "a_failing_poststart_hook_is_an_error", POSTSTART_EARLY),
    ("crun", "a_failing_poststart_hook_is_an_error", "goes on"),
    ("runc", "a_failing_start_container_hook_stops_the_program", START_IS_GONE),
    ("crun", "a_failing_start_container_hook_stops_the_program", START_IS_GONE),
    ("runc", "a_failing_poststop_hook_does_not_keep_the_rest", "leaves out the hooks after one that failed"),
    ("crun", "a_failing_poststop_hook_does_not_keep_the_rest", POSTSTOP_CRASH),
    ("crun", "hooks_are_called_in_order", POSTSTOP_CRASH),
    ("crun", "a_failed_create_runs_poststop", "runs none"),
    ("crun", "a_type_listed_twice_is_an_error", "takes the last"),
    ("runc", "another_file_in_the_devices_place_is_an_error", "leaves the file as it is"),
    ("crun", "another_file_in_the_devices_place_is_an_error", "leaves the file as it is"),
    ("runc", "without_resctrl_it_is_an_error", "goes on without"),
    ("crun", "without_resctrl_it_is_an_error", "goes on without"),
    ("crun", "a_controller_that_is_not_there_is_an_error", "leaves cgroups behind a failed create"),
];

const AS_RUNC: &str = "as runc: engines rely on it";
const PRIVATE_FIRST: &str = "makes the mount that the rootfs is on private, so there is nobody to hear of";
const POSTSTART_EARLY: &str = "runs poststart hooks in create";
const START_IS_GONE: &str = "start has returned when they run";
const POSTSTOP_CRASH: &str = "delete crashes on poststop hooks now and then";

/// Why `runtime` is known to fail the test.
pub(crate) fn reason(runtime: &Runtime, test: &str) -> Option<&'static str> {
    let found = EXCEPTIONS.iter().find(|(name, listed, _)| *name == runtime.name() && *listed == test);
    found.map(|(_, _, reason)| *reason)
}
