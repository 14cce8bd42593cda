//! A profile in Docker's form, made a filter. What is made must be a program that the kernel takes: jumps inside.

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let capabilities = ["CAP_SYS_ADMIN".to_string()];
    let Ok(profile) = seccomp::docker_file(text, &capabilities, (6, 1)) else { return };
    drop(seccomp::compile(&profile));
}
