//! What is told of a build while it goes on.

use dockerfile::Warning;
use engine::PullEvent;

/// One instruction of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInfo {
    /// Place in the plan, which is the order of the file.
    pub index: usize,
    /// The instruction as written, on one line.
    pub text: String,
    /// Name or number of its stage; empty for ARG before the first FROM.
    pub stage: String,
    /// Place in the stage and number of its steps, from 1.
    pub place: (usize, usize),
    /// Whether it is a RUN.
    pub is_run: bool,
    /// First and last line.
    pub lines: (u32, u32),
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepResult {
    /// Id of the image that the stage is so far: digest of its config.
    pub image_id: String,
    pub from_cache: bool,
}

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// What will be done, before anything is.
    Planned(Vec<StepInfo>),
    /// A shared cache was read, or could not be.
    CacheImport {
        name: String,
        error: Option<String>,
    },
    /// A shared cache did not have what it said, and why: steps are done that it knew.
    CacheLost {
        why: String,
    },
    /// What was to be done with the build's own cache, and how it ended.
    CacheExport {
        text: String,
        error: Option<String>,
    },
    /// A finding of the build checks.
    Warning(Warning),
    /// Progress of a pull for a base image.
    Pull {
        name: String,
        event: PullEvent,
    },
    Started {
        index: usize,
    },
    /// A command begins in a workspace with this id.
    Running {
        index: usize,
        workspace: String,
    },
    Output {
        index: usize,
        is_stderr: bool,
        bytes: Vec<u8>,
    },
    /// A sentence about a step.
    Note {
        index: usize,
        text: String,
    },
    Finished {
        index: usize,
        result: StepResult,
    },
    /// A stage is complete; id of its image.
    StageFinished {
        image_id: String,
    },
}
