//! `dag export`: an artifact, copied out of the store and checked on the way.

use serde_json::json;

use crate::args::Export;
use crate::context::Context;
use crate::experiment::compiled;
use crate::failure::{Failure, Outcome};
use crate::words::{bytes, count};

pub fn run(arguments: &Export, context: &Context) -> Outcome {
    let compiled = compiled(&arguments.experiment, &context.registry())?;
    let plan = compiled.plan(context)?;
    let artifacts = compiled.artifacts(&arguments.node, &plan, context)?;
    let Some(artifact) = artifacts.first() else {
        return Err(Failure::user(format!("`{}` has no outputs", arguments.node)));
    };
    if arguments.path.symlink_metadata().is_ok() {
        return Err(Failure::user(format!("`{}` exists", arguments.path.display()))
            .hint("export to a new path, so that nothing of yours is overwritten"));
    }
    if let Some(folder) = arguments.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::failed(format!("failed to create `{}`: {error}", folder.display())))?;
    }
    artifact.view.export(&artifact.output, &arguments.path)?;
    let files = artifact.files()?;
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    if context.json {
        let (node, port, output) = (&artifact.node, &artifact.port, &artifact.output);
        return context.printer.json(
            &json!({ "node": node, "port": port, "output": output, "files": files, "path": arguments.path }),
        );
    }
    context.printer.note(
        &format!("`{}`: {}, {}\n", arguments.path.display(), count(files.len() as u64, "file"), bytes(total))
            .into(),
    );
    Ok(())
}
