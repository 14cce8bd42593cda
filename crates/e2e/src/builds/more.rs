//! What the first part of the corpus does not say: the rest of the checklist, line by line.

use super::Want::{Config, Fails, Prints};
use super::{Case, case, own, with};

/// More cases.
pub const MORE: &[Case] = &[
    // Files, directives, lines.
    case("byte order mark", "\u{feff}FROM BASE\nRUN echo x > /f\n", &[Prints("cat /f", "x")]),
    case("a hash is data", "FROM BASE\nRUN echo 'a #b' > /f\n", &[Prints("cat /f", "a #b")]),
    case(
        "an escaped escape continues nothing",
        "FROM BASE\nRUN echo 'a\\\\' > /f && echo b\\\\\nRUN echo c >> /f\n",
        &[Prints("tail -n 1 /f", "c")],
    ),
    case("only ARG before FROM", "ENV a=1\nFROM BASE\n", &[Fails("no build stage in current context")]),
    case("bad escape directive", "# escape=x\nFROM BASE\n", &[Fails("escape")]),
    case(
        "directives end with the first comment",
        "# just text\n# escape=`\nFROM BASE\nRUN echo a \\\n b > /f\n",
        &[Prints("cat /f", "a b")],
    ),
    case(
        "checks that fail the build",
        "# check=error=true\nFROM BASE\nCMD x\n",
        &[Fails("lint violation found for rules: JSONArgsRecommended")],
    ),
    case(
        "checks that are skipped",
        "# check=skip=JSONArgsRecommended;error=true\nFROM BASE\nRUN echo x > /f\nCMD x\n",
        &[Prints("cat /f", "x")],
    ),
    case(
        "checks that are skipped for one instruction",
        "# check=error=true\nFROM BASE\nRUN echo x > /f\n# check=skip=JSONArgsRecommended\nCMD x\n",
        &[Prints("cat /f", "x")],
    ),
    case(
        "a flag suggests another",
        "FROM BASE\nRUN --mont=type=tmpfs,target=/t true\n",
        &[Fails("did you mean")],
    ),
    case(
        "what is no JSON is a command",
        "FROM BASE\nCMD ['x']\n",
        &[Config("/Cmd", r#"["/bin/sh","-c","['x']"]"#)],
    ),
    // The docker CLI's classic builder says the error alone.
    own(
        case(
            "errors show the line",
            "FROM BASE\nRUN true\nCOPY --from a b\n",
            &[Fails("3 | >>> COPY --from a b")],
        ),
        &["--progress", "plain"],
    ),
    case(
        "errors say what is missing",
        "FROM BASE\nCOPY --from a b\n",
        &[Fails("missing a value on flag: from")],
    ),
    // Here-documents.
    case(
        "heredoc on another descriptor",
        "FROM BASE\nRUN cat 3<<E <&3 > /f\nthree\nE\n",
        &[Prints("cat /f", "three")],
    ),
    case(
        "heredoc of a trigger",
        "FROM BASE AS s\nONBUILD RUN <<E\necho t > /f\nE\nFROM s\n",
        &[Prints("cat /f", "t")],
    ),
    case(
        "heredoc beside files",
        "FROM BASE\nCOPY a.txt <<h /w/\nhere\nh\n",
        &[Prints("cd /w; cat a.txt h", "A\nhere")],
    ),
    case(
        "heredoc with tabs",
        "FROM BASE\nCOPY <<-h /f\n\tone\n\t\ttwo\n\th\n",
        &[Prints("cat /f", "one\ntwo")],
    ),
    case("heredoc of ADD", "FROM BASE\nADD <<h /w/\nadd\nh\n", &[Prints("cat /w/h", "add")]),
    // Variables.
    case(
        "modifiers",
        "FROM BASE\nENV e=\"\" s=x\nENV a=${e-n} b=${e:-n} c=${u-n} d=${s+y} f=${e:+y} g=${e+y}\nRUN echo \"[$a][$b][$c][$d][$f][$g]\" > /f\n",
        &[Prints("cat /f", "[][n][n][y][][y]")],
    ),
    case("a message without a colon", "FROM BASE\nENV a=${none?told}\n", &[Fails("told")]),
    case(
        "nested words",
        "FROM BASE\nENV a=1\nENV b=${c:-${a}x}\nRUN echo $b > /f\n",
        &[Prints("cat /f", "1x")],
    ),
    case(
        "variables where they count",
        "FROM BASE\nARG n=7 d=/deep m=750 s=SIGUSR1\nUSER $n:$n\nWORKDIR $d/$n\nCOPY --chown=$n:8 --chmod=$m a.txt ./$n\nVOLUME $d/v\nSTOPSIGNAL $s\nEXPOSE $n$n\n",
        &[
            Prints("stat -c '%u %g %a' /deep/7/7", "7 8 750"),
            Config("/User", r#""7:7""#),
            Config("/StopSignal", r#""SIGUSR1""#),
            Config("/Volumes", r#"{"/deep/v":{}}"#),
            Config("/ExposedPorts", r#"{"77/tcp":{}}"#),
        ],
    ),
    case(
        "variables in mounts",
        "FROM BASE\nARG t=/m\nRUN --mount=type=bind,source=dir,target=$t cat /m/one > /f\n",
        &[Prints("cat /f", "1")],
    ),
    case(
        "no variables in commands",
        "FROM BASE\nENV a=1\nCMD [\"echo\", \"$a\"]\nHEALTHCHECK CMD echo $a\n",
        &[Config("/Cmd", r#"["echo","$a"]"#), Config("/Healthcheck/Test/1", r#""echo $a""#)],
    ),
    // FROM.
    case(
        "a later stage of the same name",
        "FROM BASE AS s\nRUN echo 1 > /f\nFROM BASE AS s\nRUN echo 2 > /f\nFROM s\n",
        &[Prints("cat /f", "2")],
    ),
    case("a bad stage name", "FROM BASE AS 1st\n", &[Fails("invalid name for build stage")]),
    case(
        "a stage is found whatever its case",
        "FROM BASE AS One\nRUN echo 1 > /f\nFROM ONE\n",
        &[Prints("cat /f", "1")],
    ),
    with(
        case("a target that is nearly there", "FROM BASE AS one\nFROM one\n", &[Fails("did you mean one?")]),
        &["--target", "ona"],
    ),
    with(
        case(
            "a target by its number",
            "FROM BASE\nRUN echo 0 > /f\nFROM BASE\nRUN false\n",
            &[Prints("cat /f", "0")],
        ),
        &["--target", "0"],
    ),
    case(
        "automatic arguments before FROM",
        "FROM --platform=$BUILDPLATFORM BASE AS b\nFROM BASE\nARG TARGETSTAGE\nARG BUILDOS\nRUN echo $TARGETSTAGE $BUILDOS > /f\n",
        &[Prints("cat /f", "default linux")],
    ),
    case(
        "PATH is there",
        "FROM scratch\nCOPY --from=BASE / /\n",
        &[Prints("echo $PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")],
    ),
    // RUN.
    case(
        "groups of a user",
        "FROM BASE\nRUN echo me:x:12:34::/:/bin/sh >> /etc/passwd && echo more:x:2000:me >> /etc/group && mkdir /w && chown me /w\nUSER me\nRUN id -G > /w/f\n",
        &[Prints("cat /w/f", "34 2000")],
    ),
    case(
        "a group can deny",
        "FROM BASE\nRUN echo me:x:12:34::/:/bin/sh >> /etc/passwd && echo more:x:2000:me >> /etc/group && echo x > /denied && chown 0:2000 /denied && chmod 604 /denied\nUSER me\nRUN ! cat /denied\n",
        &[Prints("id -u", "12")],
    ),
    with(
        case("another host name", "FROM BASE\nRUN hostname > /f\n", &[Prints("cat /f", "box")]),
        &["--build-arg", "BUILDKIT_SANDBOX_HOSTNAME=box"],
    ),
    with(
        case(
            "the host's gateway",
            "FROM BASE\nRUN grep -c '^[0-9.]*[[:space:]]gate$' /etc/hosts > /f\n",
            &[Prints("cat /f", "1")],
        ),
        &["--add-host", "gate:host-gateway"],
    ),
    with(
        case(
            "shared memory",
            "FROM BASE\nRUN df -k /dev/shm | tail -n 1 | awk '{print $2}' > /f\n",
            &[Prints("cat /f", "32768")],
        ),
        &["--shm-size", "32m"],
    ),
    with(
        case("limits", "FROM BASE\nRUN ulimit -n > /f\n", &[Prints("cat /f", "100")]),
        &["--ulimit", "nofile=100:200"],
    ),
    case(
        "hosts are not in the layer",
        "FROM scratch\nCOPY --from=BASE /bin /bin\nRUN true\nRUN test ! -s /etc/x && ls -d /proc > /f\n",
        &[Prints("cat /f; ls -A /etc 2>&1 | grep -vc -e hosts -e hostname -e resolv.conf", "/proc\n0")],
    ),
    case(
        "the environment is what is declared",
        "FROM BASE\nARG a=1\nENV b=2\nRUN env | cut -d= -f1 | sort | grep -v -e PWD -e SHLVL -e _ | tr '\\n' ' ' > /f\n",
        &[Prints("cat /f", "HOME HOSTNAME PATH a b")],
    ),
    // RUN --mount.
    case(
        "a mount below the working directory",
        "FROM BASE\nWORKDIR /w\nRUN --mount=source=dir,target=m cat /w/m/one > /f\n",
        &[Prints("cat /f", "1")],
    ),
    case(
        "a mount on the root",
        "FROM BASE\nRUN --mount=source=dir,target=/ true\n",
        &[Fails("invalid mount target")],
    ),
    case(
        "a mount's keys in any case",
        "FROM BASE\nRUN --mount=Type=tmpfs,Target=/t test -d /t\n",
        &[Prints("ls -d /t 2>&1 | grep -c such", "1")],
    ),
    case(
        "a key of another kind",
        "FROM BASE\nRUN --mount=type=tmpfs,target=/t,sharing=locked true\n",
        &[Fails("sharing")],
    ),
    case("an unknown kind", "FROM BASE\nRUN --mount=type=disk,target=/t true\n", &[Fails("disk")]),
    case(
        "cache mounts that are locked and private",
        "FROM BASE AS one\nRUN --mount=type=cache,id=many,target=/c,sharing=locked echo 1 >> /c/f; wc -l < /c/f > /n\nFROM BASE AS two\nRUN --mount=type=cache,id=many,target=/c,sharing=locked echo 2 >> /c/f; wc -l < /c/f > /n\nFROM BASE\nRUN --mount=type=cache,id=own,target=/c,sharing=private touch /c/x\nCOPY --from=one /n /1\nCOPY --from=two /n /2\n",
        &[Prints("cat /1 /2 | sort", "1\n2")],
    ),
    case(
        "a cache mount that begins with files",
        "FROM BASE AS s\nRUN mkdir -p /d/e && echo x > /d/e/f\nFROM BASE\nRUN --mount=type=cache,id=begun,from=s,source=/d,target=/c cat /c/e/f > /f\n",
        &[Prints("cat /f", "x")],
    ),
    case(
        "a cache mount that is only read",
        "FROM BASE\nRUN --mount=type=cache,id=ro,target=/c,ro ! touch /c/x\n",
        &[Prints("true", "")],
    ),
    with(
        case(
            "cache mounts of two names",
            "FROM BASE\nRUN --mount=type=cache,target=/c test ! -e /c/seen && touch /c/seen\n",
            &[Prints("true", "")],
        ),
        &["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=another"],
    ),
    own(
        case(
            "secrets with owner and mode",
            "FROM BASE\nRUN --mount=type=secret,id=tok,target=/etc/tok,uid=5,gid=6,mode=0440 stat -c '%u %g %a' /etc/tok > /f\nRUN --mount=type=secret,source=tok,env=TOK test ! -e /run/secrets/tok && echo ${#TOK} >> /f\n",
            &[Prints("cat /f; ls /etc/tok 2>&1 | grep -c such", "5 6 440\n7\n1")],
        ),
        &["--secret", "id=tok,env=BRIG_TEST_SECRET"],
    ),
    // COPY and ADD.
    case(
        "copy through a link of a stage",
        "FROM BASE AS s\nRUN mkdir -p /a/b && echo x > /a/b/f && ln -s /a /l && ln -s ../../../a/b/f /a/up\nFROM BASE\nCOPY --from=s /l/b/f /f\nCOPY --from=s /a/up /g\n",
        &[Prints("cat /f /g", "x\nx")],
    ),
    case(
        "copy keeps links inside",
        "FROM BASE AS s\nRUN mkdir /d && ln -s /nowhere /d/l\nFROM BASE\nCOPY --from=s /d /e\n",
        &[Prints("readlink /e/l", "/nowhere")],
    ),
    case(
        "copy keeps owners of a stage",
        "FROM BASE AS s\nRUN echo x > /x && chown 7:8 /x && chmod 4711 /x\nFROM BASE\nCOPY --from=s /x /y\n",
        &[Prints("stat -c '%u %g %a' /y", "7 8 4711")],
    ),
    case(
        "one chown number is also the group's",
        "FROM BASE\nCOPY --chown=12 a.txt /f\n",
        &[Prints("stat -c '%u %g' /f", "12 12")],
    ),
    case(
        "a chown name that is not there",
        "FROM BASE\nCOPY --chown=nobodyhere a.txt /f\n",
        &[Fails("nobodyhere")],
    ),
    case(
        "a chmod that is none",
        "FROM BASE\nCOPY --chmod=99999 a.txt /f\n",
        &[Fails("invalid chmod parameter")],
    ),
    case("add a pattern", "FROM BASE\nADD *.txt /w/\n", &[Prints("ls /w", "a.txt\nb.txt")]),
    case(
        "a checksum of a file",
        "FROM BASE\nADD --checksum=sha256:00 a.txt /f\n",
        &[Fails("checksum can't be specified for non-HTTP(S) sources")],
    ),
    case(
        "copy flags that are false",
        "FROM BASE\nRUN mkdir /real && ln -s real /link\nCOPY --link=false --parents=false a.txt /link/\n",
        &[Prints("cat /real/a.txt", "A")],
    ),
    case("nothing to copy", "FROM BASE\nCOPY a.txt\n", &[Fails("COPY requires at least two arguments")]),
    // The rest.
    case(
        "several arguments",
        "FROM BASE\nARG a=1 b=$c d=4\nRUN echo \"$a$b$d\" > /f\n",
        &[Prints("cat /f", "14")],
    ),
    case(
        "ports of all kinds",
        "FROM BASE\nEXPOSE 1/sctp 2-3/UDP\n",
        &[Config("/ExposedPorts", r#"{"1/sctp":{},"2/udp":{},"3/udp":{}}"#)],
    ),
    case("a bad port", "FROM BASE\nEXPOSE x\n", &[Fails("x")]),
    case("a signal's number", "FROM BASE\nSTOPSIGNAL 9\n", &[Config("/StopSignal", r#""9""#)]),
    case(
        "SHELL is JSON",
        "FROM BASE\nSHELL /bin/sh -c\n",
        &[Fails("SHELL requires the arguments to be in JSON form")],
    ),
    case(
        "all of HEALTHCHECK",
        "FROM BASE\nHEALTHCHECK --interval=1m --timeout=2s --start-period=3s --start-interval=500ms --retries=4 CMD [\"x\"]\n",
        &[Config(
            "/Healthcheck",
            r#"{"Interval":60000000000,"Retries":4,"StartInterval":500000000,"StartPeriod":3000000000,"Test":["CMD","x"],"Timeout":2000000000}"#,
        )],
    ),
    case("a short HEALTHCHECK", "FROM BASE\nHEALTHCHECK --interval=1us CMD x\n", &[Fails("interval")]),
    case(
        "ONBUILD of FROM",
        "FROM BASE\nONBUILD FROM x\n",
        &[Fails("FROM isn't allowed as an ONBUILD trigger")],
    ),
    case(
        "ONBUILD of a stage",
        "FROM BASE AS from\nRUN echo x > /x\nFROM BASE AS s\nONBUILD COPY --from=from /x /y\nFROM s\n",
        &[Prints("cat /y", "x")],
    ),
    case(
        "LABEL is inherited",
        "FROM BASE AS s\nLABEL a=1 b=2\nFROM s\nLABEL b=3\n",
        &[Config("/Labels", r#"{"a":"1","b":"3"}"#)],
    ),
    case("WORKDIR is clean", "FROM BASE\nWORKDIR /a//b/../c/./\n", &[Config("/WorkingDir", r#""/a/c""#)]),
    case("the last CMD", "FROM BASE\nCMD [\"a\"]\nCMD [\"b\"]\n", &[Config("/Cmd", r#"["b"]"#)]),
    case(
        "CMD stays beside a later ENTRYPOINT",
        "FROM BASE\nCMD [\"a\"]\nENTRYPOINT [\"e\"]\n",
        &[Config("/Cmd", r#"["a"]"#)],
    ),
    case("MAINTAINER is the author", "FROM BASE\nMAINTAINER me <a@b>\n", &[Config("/Maintainer", "null")]),
];
