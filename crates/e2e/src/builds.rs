//! A corpus of Dockerfiles, a case for each thing that the language can say, with what must come of it: what a script
//! prints in the image, what its config says, or why it must fail.
//!
//! `cargo test -p e2e --test build` builds all by `brig`; `cargo xtask conform build` also by the docker CLI (classic), and
//! by buildx where its program is.

mod more;

pub use more::MORE;

use crate::BUSYBOX;
use serde_json::Value;
use std::path::Path;
use testkit::daemon::{Daemon, Finished};

/// What must come of a build.
#[derive(Debug, Clone, Copy)]
pub enum Want {
    /// A shell script in the image prints this.
    Prints(&'static str, &'static str),
    /// The config has this JSON at a pointer.
    Config(&'static str, &'static str),
    /// The build fails and says this.
    Fails(&'static str),
}
use Want::{Config, Fails, Prints};

/// One case. `BASE` in a Dockerfile is the busybox image.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub dockerfile: &'static str,
    /// Flags that both clients know.
    pub flags: &'static [&'static str],
    /// Flags of `brig build` alone: the docker CLI does not run the case then.
    pub own: &'static [&'static str],
    pub want: &'static [Want],
}

const fn case(name: &'static str, dockerfile: &'static str, want: &'static [Want]) -> Case {
    Case { name, dockerfile, flags: &[], own: &[], want }
}

const fn with(case: Case, flags: &'static [&'static str]) -> Case {
    Case { flags, ..case }
}

const fn own(case: Case, own: &'static [&'static str]) -> Case {
    Case { own, ..case }
}

/// The files that every case has in its context: path, content, mode.
const FILES: &[(&str, &str, u32)] = &[
    ("a.txt", "A\n", 0o644),
    ("b.txt", "B\n", 0o600),
    ("run.sh", "#!/bin/sh\necho ran\n", 0o755),
    ("dir/one", "1\n", 0o644),
    ("dir/two", "2\n", 0o644),
    ("dir/sub/three", "3\n", 0o644),
    ("dir/sub/x.log", "log\n", 0o644),
    ("skip/me", "no\n", 0o644),
    (".dockerignore", "# comment\nskip\n**/*.tmp\n!dir/keep.tmp\n", 0o644),
    ("dir/keep.tmp", "keep\n", 0o644),
    ("dir/drop.tmp", "drop\n", 0o644),
];

/// All cases.
pub const CASES: &[Case] = &[
    // Files, directives, lines.
    case(
        "comments and continuations",
        "# c\n\nFROM BASE\nRUN echo a \\\n# no\n  b > /f && \\\n\n echo c >> /f\n",
        &[Prints("cat /f", "a b\nc")],
    ),
    case("carriage returns", "FROM BASE\r\nRUN echo a \\\r\n b > /f\r\n", &[Prints("cat /f", "a b")]),
    case(
        "escape directive",
        "# escape=`\nFROM BASE\nRUN echo a\\\\b `\n c > /f\n",
        &[Prints("cat /f", "a\\b c")],
    ),
    case(
        "syntax directive",
        "# syntax=docker/dockerfile:1\nFROM BASE\nRUN echo x > /f\n",
        &[Prints("cat /f", "x")],
    ),
    case(
        "lower case",
        "from BASE\nrun echo x > /f\ncmd [\"cat\", \"/f\"]\n",
        &[Config("/Cmd", r#"["cat","/f"]"#)],
    ),
    case("empty file", "", &[Fails("cannot be empty")]),
    case("no instructions", "# nothing\n", &[Fails("file with no instructions")]),
    case("no FROM", "RUN x\n", &[Fails("no build stage in current context")]),
    case(
        "unknown instruction",
        "FROM BASE\nRUNN x\n",
        &[Fails("unknown instruction: RUNN (did you mean RUN?)")],
    ),
    case("unknown flag", "FROM BASE\nCOPY --chwon=1 a.txt /\n", &[Fails("unknown flag: --chwon")]),
    case("unterminated heredoc", "FROM BASE\nRUN <<E\nx\n", &[Fails("unterminated heredoc")]),
    // Variables.
    case(
        "variables",
        "FROM BASE\nARG a=1\nENV b=$a c=\"${a}2\" d=${e:-def} f=${a:+set} g=\\$a h='$a'\nRUN echo \"$b $c $d $f $g $h\" > /f\n",
        &[Prints("cat /f", "1 12 def set $a $a")],
    ),
    case(
        "patterns",
        "FROM BASE\nENV p=/usr/lib/x.tar.gz\nENV a=${p##*/} b=${p%%.*} c=${p//\\//-} d=${p#*/} e=${p%.*}\nRUN echo $a $b $c $d $e > /f\n",
        &[Prints("cat /f", "x.tar.gz /usr/lib/x -usr-lib-x.tar.gz usr/lib/x.tar.gz /usr/lib/x.tar")],
    ),
    case(
        "same instruction",
        "FROM BASE\nENV a=old\nENV a=new b=$a\nRUN echo $b > /f\n",
        &[Prints("cat /f", "old")],
    ),
    case("required variable", "FROM BASE\nENV a=${none:?missing}\n", &[Fails("none: missing")]),
    with(
        case(
            "build arguments",
            "ARG v=1\nFROM BASE\nARG v\nARG w=$v-2\nARG x\nRUN echo \"$v $w $x\" > /f\n",
            &[Prints("cat /f", "9 9-2")],
        ),
        &["--build-arg", "v=9"],
    ),
    case(
        "arguments end with their stage",
        "FROM BASE AS one\nARG a=1\nFROM BASE\nRUN echo \"[$a]\" > /f\n",
        &[Prints("cat /f", "[]")],
    ),
    case(
        "arguments are inherited",
        "FROM BASE AS one\nARG a=1\nFROM one\nRUN echo \"[$a]\" > /f\n",
        &[Prints("cat /f", "[1]")],
    ),
    case("ENV hides ARG", "FROM BASE\nARG a=1\nENV a=2\nRUN echo $a > /f\n", &[Prints("cat /f", "2")]),
    case(
        "platform arguments",
        "FROM BASE\nARG TARGETOS\nARG TARGETPLATFORM\nRUN echo $TARGETOS ${TARGETPLATFORM%/*} > /f\n",
        &[Prints("cat /f", "linux linux")],
    ),
    with(
        case(
            "proxies are not kept",
            "FROM BASE\nRUN echo $http_proxy > /f\n",
            &[Prints("cat /f; env | grep -c proxy", "p:1\n0")],
        ),
        &["--build-arg", "http_proxy=p:1"],
    ),
    // FROM.
    case("scratch", "FROM scratch\nCOPY a.txt /\nCMD [\"/a.txt\"]\n", &[Config("/Cmd", r#"["/a.txt"]"#)]),
    case(
        "stages",
        "FROM BASE AS one\nRUN echo 1 > /f\nFROM BASE AS two\nRUN echo 2 > /f\nFROM BASE\nCOPY --from=one /f /1\nCOPY --from=1 /f /2\n",
        &[Prints("cat /1 /2", "1\n2")],
    ),
    case(
        "a stage as base",
        "FROM BASE AS one\nENV a=1\nFROM one\nRUN echo $a > /f\n",
        &[Prints("cat /f", "1")],
    ),
    with(
        case("target", "FROM BASE AS one\nRUN echo 1 > /f\nFROM BASE\nRUN false\n", &[Prints("cat /f", "1")]),
        &["--target", "one"],
    ),
    with(
        case("unknown target", "FROM BASE AS one\n", &[Fails("target stage \"two\" could not be found")]),
        &["--target", "two"],
    ),
    case(
        "only what is needed",
        "FROM BASE AS broken\nRUN false\nFROM BASE\nRUN echo ok > /f\n",
        &[Prints("cat /f", "ok")],
    ),
    case("FROM with arguments", "ARG base=BASE\nFROM ${base}\nRUN echo ok > /f\n", &[Prints("cat /f", "ok")]),
    case("missing image", "FROM localhost:1/none\n", &[Fails("localhost:1")]),
    // RUN.
    case(
        "exec form",
        "FROM BASE\nRUN [\"sh\", \"-c\", \"echo $0 > /f\", \"word\"]\n",
        &[Prints("cat /f", "word")],
    ),
    case(
        "SHELL",
        "FROM BASE\nSHELL [\"/bin/sh\", \"-ec\"]\nRUN echo $- > /f\n",
        &[Prints("grep -c e /f", "1"), Config("/Shell", r#"["/bin/sh","-ec"]"#)],
    ),
    case("failing RUN", "FROM BASE\nRUN echo said; exit 7\n", &[Fails("returned a non-zero code: 7")]),
    case("heredoc", "FROM BASE\nRUN <<E\necho a > /f\necho b >> /f\nE\n", &[Prints("cat /f", "a\nb")]),
    case(
        "heredoc script",
        "FROM BASE\nRUN <<E\n#!/bin/sh\necho script > /f\nE\n",
        &[Prints("cat /f", "script")],
    ),
    case(
        "heredoc for a program",
        "FROM BASE\nRUN cat <<E > /f\n$HOME stays\nE\n",
        &[Prints("cat /f", "/root stays")],
    ),
    case(
        "several heredocs",
        "FROM BASE\nRUN cat <<A > /a && cat <<-'B' > /b\n1\nA\n\t$x\nB\n",
        &[Prints("cat /a /b", "1\n$x")],
    ),
    case(
        "user and directory",
        "FROM BASE\nRUN echo me:x:1234:1234::/:/bin/sh >> /etc/passwd && mkdir /w && chown me /w\nUSER me\nWORKDIR /w\nRUN id -u > f; pwd >> f\n",
        &[Prints("cat /w/f", "1234\n/w")],
    ),
    case(
        "no traces of mounts",
        "FROM scratch\nCOPY --from=BASE /bin /bin\nRUN true\n",
        &[Prints("ls -d /run /mnt 2>/dev/null | wc -l", "0")],
    ),
    case("host name", "FROM BASE\nRUN hostname > /f\n", &[Prints("cat /f", "buildkitsandbox")]),
    with(
        case("hosts", "FROM BASE\nRUN grep -c 'here' /etc/hosts > /f\n", &[Prints("cat /f", "1")]),
        &["--add-host", "here:1.2.3.4"],
    ),
    case("no network", "FROM BASE\nRUN --network=none ip -o link | wc -l > /f\n", &[Prints("cat /f", "1")]),
    case(
        "host network is refused",
        "FROM BASE\nRUN --network=host true\n",
        &[Fails("network.host is not allowed")],
    ),
    own(
        case("host network is allowed", "FROM BASE\nRUN --network=host true\n", &[Prints("true", "")]),
        &["--allow", "network.host"],
    ),
    case(
        "privileged is refused",
        "FROM BASE\nRUN --security=insecure true\n",
        &[Fails("security.insecure is not allowed")],
    ),
    case("device is refused", "FROM BASE\nRUN --device=x/y=z true\n", &[Fails("is not allowed")]),
    // RUN --mount.
    case(
        "bind mount",
        "FROM BASE\nRUN --mount=type=bind,source=dir,target=/m cat /m/one > /f; touch /m/no || echo ro >> /f\n",
        &[Prints("cat /f; ls -d /m 2>&1 | grep -c such", "1\nro\n1")],
    ),
    case(
        "bind mount, writable",
        "FROM BASE\nRUN --mount=source=dir,target=/m,rw echo x > /m/one\nRUN --mount=source=dir,target=/m cat /m/one > /f\n",
        &[Prints("cat /f", "1")],
    ),
    case(
        "bind mount of a stage",
        "FROM BASE AS s\nRUN mkdir /d && echo d > /d/f\nFROM BASE\nRUN --mount=from=s,source=/d,target=/m cat /m/f > /f\n",
        &[Prints("cat /f", "d")],
    ),
    case(
        "bind mount does not climb out",
        "FROM BASE\nRUN --mount=source=../../../../etc,target=/m true\n",
        &[Fails("failed to find the source of the mount")],
    ),
    case(
        "bind mount through a symlink",
        "FROM BASE AS s\nRUN ln -s / /d\nFROM BASE\nRUN --mount=from=s,source=/d,target=/m test -L /m/d && echo inside > /f\n",
        &[Prints("cat /f", "inside")],
    ),
    case(
        "propagation is refused",
        "FROM BASE\nRUN --mount=type=bind,source=dir,target=/m,bind-propagation=shared true\n",
        &[Fails("unexpected key 'bind-propagation'")],
    ),
    case(
        "cache mount",
        "FROM BASE\nRUN --mount=type=cache,target=/c,id=../../etc echo x >> /c/f\nRUN --mount=type=cache,target=/c,id=../../etc cat /c/f > /f\n",
        &[Prints("cat /f; ls -d /c 2>&1 | grep -c such", "x\n1")],
    ),
    case(
        "cache mount, owner",
        "FROM BASE\nRUN --mount=type=cache,target=/c,id=own,uid=5,gid=6,mode=0700 stat -c '%u %g %a' /c > /f\n",
        &[Prints("cat /f", "5 6 700")],
    ),
    case(
        "tmpfs mount",
        "FROM BASE\nRUN --mount=type=tmpfs,target=/t,size=1m df -k /t | tail -1 | awk '{print $2}' > /f\n",
        &[Prints("cat /f", "1024")],
    ),
    case(
        "secret that is missing",
        "FROM BASE\nRUN --mount=type=secret,id=none test ! -e /run/secrets/none\n",
        &[Prints("true", "")],
    ),
    case(
        "secret that is required",
        "FROM BASE\nRUN --mount=type=secret,id=none,required true\n",
        &[Fails("secret none: not found")],
    ),
    // COPY.
    case(
        "copy files",
        "FROM BASE\nCOPY a.txt b.txt /w/\nCOPY a.txt /w/c\n",
        &[Prints("cd /w; stat -c '%n %a %u' *", "a.txt 644 0\nb.txt 600 0\nc 644 0")],
    ),
    case(
        "copy a directory",
        "FROM BASE\nCOPY dir /w\n",
        &[Prints("cd /w; find . | sort", ".\n./keep.tmp\n./one\n./sub\n./sub/three\n./sub/x.log\n./two")],
    ),
    case(
        "copy everything",
        "FROM BASE\nCOPY . /w\n",
        &[Prints("ls /w", "Dockerfile\na.txt\nb.txt\ndir\nrun.sh")],
    ),
    case("copy by pattern", "FROM BASE\nCOPY *.txt dir/t?o /w/\n", &[Prints("ls /w", "a.txt\nb.txt\ntwo")]),
    case("copy a pattern of nothing", "FROM BASE\nCOPY a.txt no*thing /w/\n", &[Prints("ls /w", "a.txt")]),
    case(
        "copy into a directory that exists",
        "FROM BASE\nRUN mkdir /w\nCOPY a.txt /w\n",
        &[Prints("ls /w", "a.txt")],
    ),
    case(
        "copy through a symlink",
        "FROM BASE\nRUN mkdir /real && ln -s real /link\nCOPY a.txt /link/\n",
        &[Prints("ls /real", "a.txt")],
    ),
    case("copy over a file", "FROM BASE\nRUN echo old > /f\nCOPY a.txt /f\n", &[Prints("cat /f", "A")]),
    case(
        "copy to the working directory",
        "FROM BASE\nWORKDIR /w\nCOPY a.txt .\nCOPY b.txt sub/\n",
        &[Prints("find /w | sort", "/w\n/w/a.txt\n/w/sub\n/w/sub/b.txt")],
    ),
    case("copy stays inside", "FROM BASE\nCOPY ../../../a.txt ../../w\n", &[Prints("cat /w", "A")]),
    case("copy JSON form", "FROM BASE\nCOPY [\"a.txt\", \"/w w\"]\n", &[Prints("cat '/w w'", "A")]),
    case("copy of what is missing", "FROM BASE\nCOPY none /w\n", &[Fails("stat none")]),
    case("copy of what is ignored", "FROM BASE\nCOPY skip/me /w\n", &[Fails("excluded by .dockerignore")]),
    case(
        "copy of several to a file",
        "FROM BASE\nCOPY a.txt b.txt /w\n",
        &[Fails("must be a directory and end with a /")],
    ),
    case(
        "chown and chmod",
        "FROM BASE\nRUN echo me:x:77:77::/:/bin/sh >> /etc/passwd\nCOPY --chown=me a.txt /1\nCOPY --chown=5:6 --chmod=u=rwX,go=rX b.txt /2\nCOPY --chown=9 --chmod=750 dir /d/\n",
        &[Prints(
            "stat -c '%n %a %u %g' /1 /2 /d /d/one",
            "/1 644 77 77\n/2 644 5 6\n/d 750 9 9\n/d/one 750 9 9",
        )],
    ),
    case(
        "copy with excludes",
        "FROM BASE\nCOPY --exclude=*.log --exclude=two --exclude=sub/*.log dir /w\n",
        &[Prints("cd /w; find . -type f | sort", "./keep.tmp\n./one\n./sub/three")],
    ),
    case(
        "copy with parents",
        "FROM BASE\nCOPY --parents dir/sub/three dir/./one /w/\n",
        &[Prints("cd /w; find . -type f | sort", "./dir/sub/three\n./one")],
    ),
    case(
        "copy with parents and stars",
        "FROM BASE\nCOPY --parents **/three /w/\n",
        &[Prints("cd /w; find . -type f", "./dir/sub/three")],
    ),
    case(
        "linked copy",
        "FROM BASE\nRUN mkdir /real && ln -s real /link\nCOPY --link a.txt /link/\n",
        &[Prints("test ! -L /link && cat /link/a.txt; ls /real", "A")],
    ),
    case(
        "copy from an image",
        "FROM scratch AS s\nFROM BASE\nCOPY --from=BASE /etc/passwd /w\n",
        &[Prints("test -s /w && echo ok", "ok")],
    ),
    case(
        "copy of a heredoc",
        "FROM BASE\nENV v=1\nCOPY <<a <<'b' /w/\n$v\na\n$v\nb\n",
        &[Prints("cd /w; cat a b; stat -c %a a", "1\n$v\n644")],
    ),
    case("heredoc as destination", "FROM BASE\nCOPY a.txt <<b\nb\n", &[Fails("heredoc as a destination")]),
    // ADD.
    case("add files", "FROM BASE\nADD a.txt dir /w/\n", &[Prints("ls /w", "a.txt\nkeep.tmp\none\nsub\ntwo")]),
    case(
        "add of an archive",
        "FROM BASE AS s\nRUN mkdir /d && echo x > /d/f && tar -czf /d.tgz -C /d f\nFROM BASE\nRUN --mount=from=s,source=/d.tgz,target=/d.tgz tar -tzf /d.tgz > /f\n",
        &[Prints("cat /f", "f")],
    ),
    // The rest.
    case("ENV", "FROM BASE\nENV a=1 b=\"x y\"\nENV c d e\n", &[Prints("echo $a $b $c", "1 x y d e")]),
    with(
        case(
            "LABEL",
            "FROM BASE\nENV v=1\nLABEL a=$v \"b c\"=\"d\" e=f\nLABEL e=g\n",
            &[Config("/Labels", r#"{"a":"1","b c":"d","e":"g","x":"y"}"#)],
        ),
        &["--label", "x=y"],
    ),
    case(
        "EXPOSE",
        "FROM BASE\nARG p=90\nEXPOSE 80 $p/udp 100-101\n",
        &[Config("/ExposedPorts", r#"{"100/tcp":{},"101/tcp":{},"80/tcp":{},"90/udp":{}}"#)],
    ),
    case(
        "VOLUME",
        "FROM BASE\nVOLUME /a /b\nVOLUME [\"/c\"]\n",
        &[Config("/Volumes", r#"{"/a":{},"/b":{},"/c":{}}"#)],
    ),
    case("USER", "FROM BASE\nUSER 5:6\n", &[Config("/User", r#""5:6""#), Prints("id -u; id -g", "5\n6")]),
    case(
        "WORKDIR",
        "FROM BASE\nWORKDIR /a\nWORKDIR b/../c\n",
        &[Config("/WorkingDir", r#""/a/c""#), Prints("stat -c '%a %u' /a/c", "755 0")],
    ),
    case("WORKDIR of a user", "FROM BASE\nUSER 5\nWORKDIR /a/b\n", &[Prints("stat -c '%u' /a/b", "5")]),
    case(
        "CMD and ENTRYPOINT",
        "FROM BASE\nCMD [\"x\"]\nENTRYPOINT [\"echo\", \"e\"]\n",
        &[Config("/Entrypoint", r#"["echo","e"]"#), Config("/Cmd", r#"["x"]"#)],
    ),
    case(
        "ENTRYPOINT resets what was inherited",
        "FROM BASE AS s\nCMD [\"x\"]\nFROM s\nENTRYPOINT echo e\n",
        &[Config("/Entrypoint", r#"["/bin/sh","-c","echo e"]"#), Config("/Cmd", "null")],
    ),
    case("STOPSIGNAL", "FROM BASE\nSTOPSIGNAL SIGINT\n", &[Config("/StopSignal", r#""SIGINT""#)]),
    case("bad STOPSIGNAL", "FROM BASE\nSTOPSIGNAL NOPE\n", &[Fails("invalid signal")]),
    case(
        "HEALTHCHECK",
        "FROM BASE\nHEALTHCHECK --interval=5s --retries=2 CMD test -e /f\n",
        &[Config("/Healthcheck", r#"{"Interval":5000000000,"Retries":2,"Test":["CMD-SHELL","test -e /f"]}"#)],
    ),
    case(
        "HEALTHCHECK NONE",
        "FROM BASE\nHEALTHCHECK NONE\n",
        &[Config("/Healthcheck", r#"{"Test":["NONE"]}"#)],
    ),
    case(
        "ONBUILD",
        "FROM BASE AS s\nONBUILD RUN echo trigger > /f\nONBUILD COPY a.txt /g\nFROM s\n",
        &[Prints("cat /f /g", "trigger\nA"), Config("/OnBuild", "null")],
    ),
    case("ONBUILD of ONBUILD", "FROM BASE\nONBUILD ONBUILD RUN x\n", &[Fails("Chaining ONBUILD")]),
    case("MAINTAINER", "FROM BASE\nMAINTAINER me\nRUN echo x > /f\n", &[Prints("cat /f", "x")]),
    own(
        case(
            "secrets",
            "FROM BASE\nRUN --mount=type=secret,id=tok wc -c < /run/secrets/tok > /f; stat -c %a /run/secrets/tok >> /f\nRUN --mount=type=secret,id=tok,env=TOK echo ${#TOK} >> /f\n",
            &[Prints("cat /f; ls /run/secrets 2>&1 | grep -c such", "7\n400\n7\n1")],
        ),
        &["--secret", "id=tok,env=BRIG_TEST_SECRET"],
    ),
    own(
        case("a named context", "FROM other\nRUN echo x > /f\n", &[Prints("cat /f", "x")]),
        &["--build-context", "other=docker-image://busybox:latest"],
    ),
    own(
        case(
            "insecure",
            "FROM BASE\nRUN --security=insecure grep CapEff /proc/self/status | grep -vc a80425fb > /f\n",
            &[Prints("cat /f", "1")],
        ),
        &["--allow", "security.insecure"],
    ),
];

/// Writes the context of a case.
pub fn write_context(case: &Case, dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for (path, content, mode) in FILES {
        let path = dir.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(*mode)).unwrap();
    }
    std::fs::write(dir.join("Dockerfile"), case.dockerfile.replace("BASE", BUSYBOX)).unwrap();
}

/// Builds a case by `client` and says what is not as it should be.
pub fn judge(daemon: &Daemon, case: &Case, client: &str) -> Result<(), String> {
    let context = tempfile::tempdir().unwrap();
    write_context(case, context.path());
    let tag = format!("corpus-{client}");
    let mut args: Vec<&str> = vec!["build", "-t", &tag];
    args.extend(case.flags);
    args.extend(case.own);
    args.push(context.path().to_str().unwrap());
    let mut command = match client {
        "brig" => daemon.brig_command(&args),
        "docker" => daemon.docker_command(&args),
        "buildx" => {
            let program = std::env::var_os("BRIG_TEST_BUILDX").expect("the client buildx is named so");
            args.splice(1..1, ["--progress", "plain"]);
            daemon.client(Path::new(&program), &args)
        }
        other => panic!("no client {other}"),
    };
    command.env("DOCKER_BUILDKIT", "0").env("BRIG_TEST_SECRET", "sesame!");
    let built: Finished = testkit::daemon::finish(command, &[]);
    let said = format!("{}{}", built.stdout, built.stderr);
    for want in case.want {
        match want {
            Fails(text) => {
                // BuildKit's clients are told of a failed command in BuildKit's words.
                let theirs =
                    text.replace("returned a non-zero code:", "did not complete successfully: exit code:");
                let text = if client == "buildx" { theirs.as_str() } else { *text };
                if built.code == Some(0) || !said.contains(text) {
                    return Err(format!("wanted a failure with {text:?}, got {:?}: {said}", built.code));
                }
            }
            _ if built.code != Some(0) => return Err(format!("failed: {said}")),
            Prints(script, text) => {
                let run = daemon.brig(&["run", "--rm", "--entrypoint", "sh", &tag, "-c", script]);
                if run.stdout.trim() != *text {
                    return Err(format!(
                        "{script:?} printed {:?} {:?}, wanted {text:?}",
                        run.stdout, run.stderr
                    ));
                }
            }
            Config(pointer, json) => {
                let image = daemon.get(&format!("/images/{tag}/json"));
                let wanted: Value = serde_json::from_str(json).unwrap();
                let found = image["Config"].pointer(pointer).cloned().unwrap_or(Value::Null);
                if found != wanted {
                    return Err(format!("{pointer} is {found}, wanted {wanted}"));
                }
            }
        }
    }
    Ok(())
}
