//! The Dockerfile instructions that `commit` and `import` take as changes, applied to an image's config.
//!
//! Spec: docker commit, `--change`: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and
//! WORKDIR, one or several lines in each text.

use crate::error::Error;
use dockerfile::{Change, Expander, Instruction};
use oci::image::RunConfig;

/// Applies `changes` in order.
///
/// # Errors
///
/// InvalidArgument in Docker's words for other instructions and for arguments that cannot be.
pub(crate) fn apply(config: &mut RunConfig, changes: &[String]) -> Result<(), Error> {
    let mut has_cmd = false;
    for text in changes {
        for instruction in dockerfile::parse_changes(text).map_err(|e| Error::invalid(e.message))? {
            plan(&instruction, config)?.apply(config, &mut has_cmd);
        }
    }
    Ok(())
}

fn plan(instruction: &Instruction, config: &RunConfig) -> Result<Change, Error> {
    let lookup = |name: &str| {
        let env = config.env.iter().flatten().rev();
        env.filter_map(|e| e.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_string())
    };
    let change = Change::of(instruction, config, &Expander::new('\\', &lookup));
    let change = change.map_err(|wrong| Error::invalid(wrong.message))?;
    change.ok_or_else(|| Error::invalid(format!("{} is not a valid change command", instruction.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(changes: &[&str], expected: Result<Value, &str>) {
        let mut config = RunConfig {
            env: Some(vec!["A=1".into(), "P=/x".into()]),
            cmd: Some(vec!["old".into()]),
            ..RunConfig::default()
        };
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        match (apply(&mut config, &changes), expected) {
            (Ok(()), Ok(expected)) => {
                let got = serde_json::to_value(&config).unwrap();
                for (key, value) in expected.as_object().unwrap() {
                    assert_eq!(got.get(key).unwrap_or(&Value::Null), value, "{changes:?} {key}");
                }
            }
            (Err(e), Err(text)) => assert!(e.to_string().contains(text), "{e}"),
            (got, expected) => panic!("{changes:?}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn each_instruction_changes_its_field() {
        check(&[r#"CMD ["a", "b"]"#], Ok(json!({"Cmd": ["a", "b"]})));
        check(&["cmd echo hi"], Ok(json!({"Cmd": ["/bin/sh", "-c", "echo hi"]})));
        check(&["ENTRYPOINT [\"e\"]"], Ok(json!({"Entrypoint": ["e"], "Cmd": null})));
        check(&["CMD [\"c\"]", "ENTRYPOINT [\"e\"]"], Ok(json!({"Cmd": ["c"], "Entrypoint": ["e"]})));
        check(
            &["ENV A=2 B=\"x y\" C='$A' D=$A"],
            Ok(json!({"Env": ["A=2", "P=/x", "B=x y", "C=$A", "D=1"]})),
        );
        check(&["ENV B some words"], Ok(json!({"Env": ["A=1", "P=/x", "B=some words"]})));
        check(&["LABEL a=b \"c d\"=e"], Ok(json!({"Labels": {"a": "b", "c d": "e"}})));
        check(
            &["EXPOSE 80 53/udp 1-2/TCP"],
            Ok(json!({"ExposedPorts": {"80/tcp": {}, "53/udp": {}, "1/tcp": {}, "2/tcp": {}}})),
        );
        check(
            &["VOLUME /a ${P}/b", "VOLUME [\"/c d\"]"],
            Ok(json!({"Volumes": {"/a": {}, "/x/b": {}, "/c d": {}}})),
        );
        check(&["USER 1:2"], Ok(json!({"User": "1:2"})));
        check(&["WORKDIR /a", "WORKDIR b/../c"], Ok(json!({"WorkingDir": "/a/c"})));
        check(&["STOPSIGNAL SIGKILL"], Ok(json!({"StopSignal": "SIGKILL"})));
        check(&["ONBUILD RUN x"], Ok(json!({"OnBuild": ["RUN x"]})));
        check(
            &["HEALTHCHECK --interval=1m30s --retries=3 CMD curl x"],
            Ok(
                json!({"Healthcheck": {"Interval": 90_000_000_000i64, "Retries": 3, "Test": ["CMD-SHELL", "curl x"]}}),
            ),
        );
        check(&["HEALTHCHECK NONE"], Ok(json!({"Healthcheck": {"Test": ["NONE"]}})));
        check(&["USER a\n# note\nENV X=\\\ny"], Ok(json!({"User": "a", "Env": ["A=1", "P=/x", "X=y"]})));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        check(&["RUN x"], Err("RUN is not a valid change command"));
        check(&["from x"], Err("from is not a valid change command"));
        check(&["ENV"], Err("requires at least one argument"));
        check(&["ENV A=1 B"], Err("can't find = in \"B\""));
        check(&["EXPOSE 70000"], Err("invalid containerPort"));
        check(&["EXPOSE 1/icmp"], Err("invalid proto"));
        check(&["STOPSIGNAL NOPE"], Err("invalid signal"));
        check(&["ONBUILD FROM x"], Err("isn't allowed as an ONBUILD trigger"));
        check(&["LABEL a='b"], Err("looking for matching"));
        check(&["HEALTHCHECK --x=1 CMD a"], Err("unknown flag"));
    }
}
