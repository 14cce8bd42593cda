//! The session by the unmodified docker CLI.

use e2e::{Client, session_tests};

session_tests! { Client::Docker;
    attach
    exec
    exit_codes
    images
    life
    load_and_system
    logs
    networks
    run_pulls
    run_rm
    settings
    terminal
}
