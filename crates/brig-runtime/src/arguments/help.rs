//! What `--help` says, of the program and of each command, in runc's form.

/// A command: its name, what it is for, its arguments, its options.
type Page = (&'static str, &'static str, &'static str, &'static str);

const PAGES: &[Page] = &[
    (
        "create",
        "make a container that waits for start",
        "[options] <container-id>",
        "\
   --bundle, -b DIR        the bundle; by default the current directory
   --config, -f FILE       in place of config.json there
   --console-socket PATH   gets the terminal's master
   --pid-file FILE         gets the process's id
   --pidfd-socket PATH     gets the process's descriptor
   --preserve-fds N        descriptors from 3 on that are passed on
   --no-pivot              change the root without pivot_root(2), for ramdisks
   --no-new-keyring        keep the caller's session keyring
",
    ),
    (
        "run",
        "make a container and start it",
        "[options] <container-id>",
        "\
   --detach, -d            do not wait for its end
   --keep                  do not delete it at its end
   --no-subreaper          taken as runc's; there is no subreaper to disable
   and those of create
",
    ),
    ("start", "let a created container go", "<container-id>", ""),
    ("state", "say how a container is, as JSON", "<container-id>", ""),
    ("kill", "send a signal (default: SIGTERM)", "[options] <container-id> [signal]", "   --all, -a               to every process\n"),
    (
        "delete",
        "remove what a container had",
        "[options] <container-id>",
        "   --force, -f             kill it first if it runs\n",
    ),
    (
        "exec",
        "run another process in a container",
        "[options] <container-id> <command> [command options]  || -p process.json <container-id>",
        "\
   --process, -p FILE      the process, as in config.json
   --detach, -d            do not wait for its end
   --tty, -t               with a terminal
   --console-socket PATH   gets the terminal's master
   --pid-file FILE         gets the process's id
   --pidfd-socket PATH     gets the process's descriptor
   --cwd DIR               working directory
   --env, -e NAME=VALUE    environment, also several times
   --user, -u UID[:GID]    as whom
   --additional-gids, -g   groups, also several times
   --cap, -c CAP           a capability more, also several times
   --no-new-privs          gain no privileges by execve(2)
   --process-label LABEL   SELinux label
   --apparmor PROFILE      AppArmor profile
   --preserve-fds N        descriptors from 3 on that are passed on
   --cgroup [CONTROLLER[,CONTROLLER]:]PATH   a cgroup below the container's
   --ignore-paused         also in a paused container
",
    ),
    (
        "list",
        "list containers of the root",
        "[options]",
        "   --format, -f            table or json\n   --quiet, -q             ids only\n",
    ),
    (
        "ps",
        "list a container's processes",
        "[options] <container-id> [ps options]",
        "   --format, -f            table or json\n",
    ),
    (
        "events",
        "numbers of a container, and word of processes killed for want of memory",
        "[options] <container-id>",
        "   --interval TIME         between numbers (default: 5s)\n   --stats                 the numbers once\n",
    ),
    ("pause", "freeze all processes of a container", "<container-id>", ""),
    ("resume", "thaw them", "<container-id>", ""),
    (
        "update",
        "change limits of a container",
        "[options] <container-id>",
        "\
   --resources, -r FILE    all of them, as in config.json; - is the standard input
   --memory SIZE           --memory-reservation SIZE   --memory-swap SIZE
   --pids-limit N          --blkio-weight N
   --cpu-share N           --cpu-quota US   --cpu-period US   --cpu-burst US   --cpu-idle 0|1
   --cpu-rt-period US      --cpu-rt-runtime US
   --cpuset-cpus LIST      --cpuset-mems LIST
   --l3-cache-schema LINE  --mem-bw-schema LINE
",
    ),
    (
        "checkpoint",
        "write a container's processes into images, by criu",
        "[options] <container-id>",
        "\
   --image-path DIR        --work-path DIR   --parent-path DIR
   --leave-running         --pre-dump   --auto-dedup
   --tcp-established       --tcp-skip-in-flight   --ext-unix-sk   --shell-job   --file-locks   --link-remap
   --manage-cgroups-mode   soft, full, strict or ignore
   --empty-ns network
   --lazy-pages            --page-server HOST:PORT   --status-fd N
",
    ),
    (
        "restore",
        "make a container of such images",
        "[options] <container-id>",
        "\
   --bundle, -b DIR        --detach, -d   --pid-file FILE   --console-socket PATH   --no-subreaper   --no-pivot
   --image-path DIR        --work-path DIR   --auto-dedup   --lazy-pages
   --tcp-established       --ext-unix-sk   --shell-job   --file-locks
   --manage-cgroups-mode   soft, full, strict or ignore
   --empty-ns network
   --lsm-profile TYPE:NAME --lsm-mount-context CONTEXT
",
    ),
    (
        "spec",
        "write a config.json to begin with",
        "[options]",
        "   --bundle, -b DIR        where\n   --rootless              for a user without privilege\n",
    ),
    ("features", "say what this runtime can do, as JSON", "", ""),
];

const GLOBAL: &str = "
GLOBAL OPTIONS:
   --root DIR              where containers are kept
   --log FILE              where errors, warnings and debug lines go
   --log-format FORMAT     text or json
   --debug                 say what is done
   --systemd-cgroup        ask systemd for cgroups; cgroupsPath is SLICE:PREFIX:NAME
   --cgroup-manager        systemd or cgroupfs, as crun's
   --rootless              true, false or auto: go without a cgroup where none may be made
   --criu PROGRAM          for checkpoint and restore
   --help, -h              --version, -v
";

/// The page of a command, or of the program.
pub(crate) fn help(command: Option<&str>) -> String {
    if let Some((name, about, usage, options)) = command.and_then(page) {
        let title = if options.is_empty() { "" } else { "\nOPTIONS:\n" };
        return format!(
            "NAME:\n   brig-runtime {name} - {about}\n\nUSAGE:\n   brig-runtime {name} {usage}\n{title}{options}"
        );
    }
    let commands: String = PAGES.iter().map(|(name, about, ..)| format!("   {name:<11} {about}\n")).collect();
    format!(
        "NAME:\n   brig-runtime - Open Container Initiative runtime\n\nUSAGE:\n   brig-runtime [global options] command [command options] [arguments...]\n\nCOMMANDS:\n{commands}{GLOBAL}"
    )
}

fn page(name: &str) -> Option<&'static Page> {
    PAGES.iter().find(|(known, ..)| *known == name)
}

/// How many arguments `command` takes, in runc's words. `got_more` than it takes, or fewer.
pub(crate) fn count(command: &str, got_more: bool) -> String {
    let takes = match command {
        "kill" if got_more => "a maximum of 2",
        "exec" | "kill" | "ps" => "a minimum of 1",
        "list" | "spec" | "features" => "exactly 0",
        _ => "exactly 1",
    };
    format!("{command:?} requires {takes} argument(s)")
}
