//! Two arms of one experiment: what they share, where they part, what each cost, how each was trained, and how their
//! results differ, with paired intervals.

use std::collections::{BTreeMap, BTreeSet};

use dag_engine::event::End;
use dag_engine::graph::{Graph, Node, NodeId};
use dag_engine::journal;
use dag_engine::plan::Plan;
use dag_engine::plan::diff::{self, Side};
use dag_engine::state::Phase;
use dag_tasks::stats::{Difference, mean, paired_difference};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::words::{groups, recipes};
use crate::artifact::Artifact;
use crate::commands::status::Past;
use crate::context::Context;
use crate::experiment::Compiled;
use crate::failure::{Failure, Outcome};
use crate::grid;
use crate::text::Text;
use crate::words::{count, duration, grouped, short};

/// Journals are read back so far for what an arm cost.
const RUNS: usize = 64;

pub(super) fn run(compiled: &Compiled, left: &str, right: &str, context: &Context) -> Outcome {
    let graph = &compiled.graph;
    let axis = axis_of(graph, left, right)?;
    let arms = Arms { graph, axis: axis.clone(), left: left.to_owned(), right: right.to_owned() };
    let own = [arms.nodes_of(left), arms.nodes_of(right)];
    let shared = arms.shared(&own);
    let recipes = recipes(compiled, context)?;
    let side = Side { graph, recipes: &recipes };
    let parts = groups(&diff::arms(side, &axis, left, right).parted, side, side);
    let plan = compiled.plan(context)?;
    let costs = costs(graph, own, context);
    let training = arms.training(compiled, &plan, context)?;
    let results = arms.results(compiled, &plan, context)?;
    if context.json {
        let parts = parts.iter().map(
            |part| json!({ "node": part.base, "count": part.nodes.len(), "differences": part.differences }),
        );
        return context.printer.json(&json!({
            "axis": axis, "left": left, "right": right, "shared": shared, "parts": parts.collect::<Vec<_>>(), "costs": costs,
            "training": training.iter().map(|(field, values)| json!({ "field": field, "values": values })).collect::<Vec<_>>(),
            "results": results,
        }));
    }
    let mut text =
        Text::new().bold(format!("{axis} {left} → {right}")).faint(format!("  {}", graph.name)).line();
    text = text.plain(format!("{} shared", count(shared as u64, "node"))).line();
    text = text.line().bold("where they part").line();
    text = parts.iter().fold(text, |text, part| part.render(&part.base, text));
    text = text.line().bold("what each cost").line();
    for (arm, cost) in [left, right].iter().zip(&costs) {
        text = text.plain(format!("  {arm}  ")).plain(cost.words()).line();
    }
    if !training.is_empty() {
        text = text.line().bold("training").line().then(side_by_side(&training, [left, right]));
    }
    if results.is_empty() {
        text = text.line().faint("no results of both arms yet").line();
    } else {
        text = text
            .line()
            .bold("results")
            .faint(format!("  {right} minus {left}, paired by problem, 95 % interval"))
            .line();
        text = text.then(result_table(&results, left, right));
    }
    context.printer.data(&text)
}

/// The axis that has both values; `arm` if several have.
fn axis_of(graph: &Graph, left: &str, right: &str) -> Result<String, Failure> {
    let has = |values: &[std::sync::Arc<str>], wanted: &str| values.iter().any(|value| &**value == wanted);
    let mut axes: Vec<&str> = graph
        .axes
        .iter()
        .filter(|(_, values)| has(values, left) && has(values, right))
        .map(|(axis, _)| &**axis)
        .collect();
    axes.sort_by_key(|axis| *axis != "arm");
    axes.first().map(ToString::to_string).ok_or_else(|| {
        let listed: Vec<String> = graph
            .axes
            .iter()
            .map(|(axis, values)| {
                format!(
                    "{axis}: {}",
                    values.iter().take(8).map(|value| &**value).collect::<Vec<_>>().join(", ")
                )
            })
            .collect();
        Failure::user(format!("no axis has both `{left}` and `{right}`"))
            .hint(format!("there is {}", listed.join("; ")))
    })
}

struct Arms<'g> {
    graph: &'g Graph,
    axis: String,
    left: String,
    right: String,
}

impl Arms<'_> {
    fn value<'a>(&self, node: &'a Node) -> Option<&'a str> {
        node.coordinates.iter().find(|(axis, _)| **axis == *self.axis).map(|(_, value)| &**value)
    }

    /// A node's name without its place on the axis, by which the nodes of both arms correspond.
    fn neutral(&self, node: &Node) -> String {
        if self.value(node).is_none() {
            return node.name.to_string();
        }
        let at: Vec<&str> = node
            .coordinates
            .iter()
            .map(|(axis, value)| if **axis == *self.axis { "*" } else { &**value })
            .collect();
        format!("{}@{}", node.base, at.join("/"))
    }

    /// Node → the arm that alone it serves. A node off the axis serves an arm if all that reads it does: so the traces
    /// of one teacher belong to its arm, and what later brings both arms together belongs to neither.
    fn owners(&self) -> BTreeMap<NodeId, &str> {
        let mut owners = BTreeMap::new();
        for &id in self.graph.order().iter().rev() {
            let owner = self.value(self.graph.node(id)).or_else(|| {
                let readers = self.graph.dependents(id);
                let first = *owners.get(readers.first()?)?;
                readers.iter().all(|reader| owners.get(reader) == Some(&first)).then_some(first)
            });
            if let Some(owner) = owner {
                owners.insert(id, owner);
            }
        }
        owners
    }

    /// The nodes that serve `arm` alone.
    fn nodes_of(&self, arm: &str) -> BTreeSet<NodeId> {
        let owners = self.owners();
        owners.into_iter().filter(|(_, owner)| *owner == arm).map(|(id, _)| id).collect()
    }

    /// How many nodes both arms need and neither owns.
    fn shared(&self, own: &[BTreeSet<NodeId>; 2]) -> usize {
        let needed = |own: &BTreeSet<NodeId>| -> BTreeSet<NodeId> {
            self.graph.closure(&own.iter().copied().collect::<Vec<_>>()).into_iter().collect()
        };
        let both = needed(&own[0]).intersection(&needed(&own[1])).copied().collect::<BTreeSet<_>>();
        both.iter().filter(|id| !own[0].contains(id) && !own[1].contains(id)).count()
    }

    /// The pairs of corresponding nodes, in topological order.
    fn pairs(&self) -> Vec<(NodeId, NodeId)> {
        let of = |arm: &str| -> BTreeMap<String, NodeId> {
            let nodes = self.graph.order().iter().filter(|id| self.value(self.graph.node(**id)) == Some(arm));
            nodes.map(|&id| (self.neutral(self.graph.node(id)), id)).collect()
        };
        let right = of(&self.right);
        let left =
            self.graph.order().iter().filter(|id| self.value(self.graph.node(**id)) == Some(&*self.left));
        left.filter_map(|&id| Some((id, *right.get(&self.neutral(self.graph.node(id)))?))).collect()
    }

    /// The facts of `training/summary.json` for each trained pair: field, and its value in both arms.
    fn training(
        &self,
        compiled: &Compiled,
        plan: &Plan,
        context: &Context,
    ) -> Result<Vec<(String, [Value; 2])>, Failure> {
        let mut rows = Vec::new();
        let pairs: Vec<_> =
            self.pairs().into_iter().filter(|(id, _)| self.graph.node(*id).step.kind() == "train").collect();
        for (left, right) in &pairs {
            let summary = |id: NodeId| -> Result<Map<String, Value>, Failure> {
                let artifacts = compiled.artifacts_of(id, plan, context)?.unwrap_or_default();
                let Some(model) = artifacts.first().filter(|model| model.is_present()) else {
                    return Ok(Map::new());
                };
                Ok(model
                    .read_json("training/summary.json")?
                    .and_then(|value| value.as_object().cloned())
                    .unwrap_or_default())
            };
            let (left_facts, right_facts) = (summary(*left)?, summary(*right)?);
            let mut fields: Vec<&String> = left_facts.keys().collect();
            fields.extend(right_facts.keys().filter(|field| !left_facts.contains_key(*field)));
            for field in fields {
                let value = |facts: &Map<String, Value>| facts.get(field).cloned().unwrap_or(Value::Null);
                let values = [value(&left_facts), value(&right_facts)];
                if values.iter().all(|value| !value.is_object() && !value.is_array()) {
                    let label = if pairs.len() > 1 {
                        format!("{} {field}", self.neutral(self.graph.node(*left)))
                    } else {
                        field.clone()
                    };
                    rows.push((label, values));
                }
            }
        }
        Ok(rows)
    }

    /// The paired differences of every pair of results that both arms have.
    fn results(&self, compiled: &Compiled, plan: &Plan, context: &Context) -> Result<Vec<Compared>, Failure> {
        let mut rows = Vec::new();
        for (left, right) in
            self.pairs().into_iter().filter(|(id, _)| self.graph.node(*id).step.kind() == "evaluate")
        {
            let scores = |id: NodeId| -> Result<Option<Scores>, Failure> {
                let artifacts = compiled.artifacts_of(id, plan, context)?.unwrap_or_default();
                artifacts.first().filter(|results| results.is_present()).map_or(Ok(None), Scores::read)
            };
            if let (Some(left_scores), Some(right_scores)) = (scores(left)?, scores(right)?) {
                rows.extend(Compared::of(self.neutral(self.graph.node(left)), &left_scores, &right_scores));
            }
        }
        Ok(rows)
    }
}

/// Problem → the mean over its samples of: correct, cut off, tokens.
struct Scores(BTreeMap<String, [f64; 3]>);

impl Scores {
    fn read(results: &Artifact) -> Result<Option<Self>, Failure> {
        let Some(table) = results.table()? else { return Ok(None) };
        let mut sums: BTreeMap<String, (u32, [f64; 3])> = BTreeMap::new();
        for row in table.rows()? {
            let row = row?;
            let Some(id) = row.get("id").and_then(Value::as_str) else { return Ok(None) };
            let (samples, sum) = sums.entry(id.to_owned()).or_default();
            *samples += 1;
            let yes = |yes: bool| f64::from(u8::from(yes));
            sum[0] += yes(row.get("correct") == Some(&Value::Bool(true)));
            sum[1] += yes(row.get("finish_reason").and_then(Value::as_str) == Some("length"));
            sum[2] += row.get("output_tokens").and_then(Value::as_f64).unwrap_or(0.0);
        }
        let mean = |(samples, sum): (u32, [f64; 3])| sum.map(|sum| sum / f64::from(samples));
        Ok(Some(Self(sums.into_iter().map(|(id, sums)| (id, mean(sums))).collect())))
    }
}

/// One benchmark in both arms.
#[derive(Debug, Serialize)]
struct Compared {
    node: String,
    problems: usize,
    left: Means,
    right: Means,
    difference: f64,
    interval: Option<[f64; 2]>,
    p: Option<f64>,
}

/// Means over the problems that both arms answered.
#[derive(Debug, Serialize)]
struct Means {
    correct: f64,
    truncated: f64,
    output_tokens: f64,
}

impl Compared {
    fn of(node: String, left: &Scores, right: &Scores) -> Option<Self> {
        let common: Vec<(&[f64; 3], &[f64; 3])> =
            left.0.iter().filter_map(|(id, left)| Some((left, right.0.get(id)?))).collect();
        let column = |side: usize, field: usize| -> Vec<f64> {
            common.iter().map(|pair| if side == 0 { pair.0[field] } else { pair.1[field] }).collect()
        };
        let means = |side: usize| -> Option<Means> {
            let of = |field: usize| Some(mean(&column(side, field))?.mean);
            Some(Means { correct: of(0)?, truncated: of(1)?, output_tokens: of(2)? })
        };
        let found: Difference = paired_difference(&column(1, 0), &column(0, 0))?;
        Some(Self {
            node,
            problems: common.len(),
            left: means(0)?,
            right: means(1)?,
            difference: found.mean,
            interval: found.interval.map(|interval| [interval.low, interval.high]),
            p: found.p,
        })
    }
}

fn percent(share: f64) -> Value {
    json!(format!("{:.1} %", 100.0 * share))
}

fn result_table(results: &[Compared], left: &str, right: &str) -> Text {
    let rows: Vec<Map<String, Value>> = results
        .iter()
        .map(|found| {
            let interval = found.interval.map_or_else(String::new, |[low, high]| {
                format!(" [{:+.1}, {:+.1}]", 100.0 * low, 100.0 * high)
            });
            Map::from_iter([
                ("results".to_owned(), json!(found.node)),
                ("n".to_owned(), json!(found.problems)),
                (left.to_owned(), percent(found.left.correct)),
                (right.to_owned(), percent(found.right.correct)),
                ("difference".to_owned(), json!(format!("{:+.1}{interval}", 100.0 * found.difference))),
                (
                    "cut off".to_owned(),
                    json!(format!(
                        "{:.0} / {:.0} %",
                        100.0 * found.left.truncated,
                        100.0 * found.right.truncated
                    )),
                ),
                (
                    "tokens".to_owned(),
                    json!(format!(
                        "{} / {}",
                        short(found.left.output_tokens.round()),
                        short(found.right.output_tokens.round())
                    )),
                ),
            ])
        })
        .collect();
    let columns = ["results", "n", left, right, "difference", "cut off", "tokens"].map(str::to_owned);
    grid::render(&columns, &rows)
}

fn side_by_side(training: &[(String, [Value; 2])], arms: [&str; 2]) -> Text {
    let rows: Vec<Map<String, Value>> = training
        .iter()
        .map(|(field, [left, right])| {
            Map::from_iter([
                ("field".to_owned(), json!(field)),
                (arms[0].to_owned(), left.clone()),
                (arms[1].to_owned(), right.clone()),
                (String::new(), json!(if left == right { "" } else { "differs" })),
            ])
        })
        .collect();
    grid::render(&["field".to_owned(), arms[0].to_owned(), arms[1].to_owned(), String::new()], &rows)
}

/// What the nodes that only one arm needs took, each when it was last computed.
#[derive(Debug, Default, Serialize)]
struct Cost {
    nodes: u64,
    computed: u64,
    seconds: f64,
    records: u64,
    input_tokens: u64,
    output_tokens: u64,
}

impl Cost {
    fn words(&self) -> String {
        let mut words = format!("{} of its own", count(self.nodes, "node"));
        if self.computed < self.nodes {
            words += &format!(", {} computed here", grouped(self.computed));
        }
        let time = duration(std::time::Duration::from_secs_f64(self.seconds.max(0.0)));
        words += &format!(": {time} of work, {}", count(self.records, "record"));
        if self.input_tokens + self.output_tokens > 0 {
            let (read, written) = (short(self.input_tokens as f64), short(self.output_tokens as f64));
            words += &format!(", {read} tokens read and {written} written");
        }
        words
    }
}

fn costs(graph: &Graph, own: [BTreeSet<NodeId>; 2], context: &Context) -> [Cost; 2] {
    let view = context.view();
    let layout = view.layout();
    let mut known: BTreeMap<String, Cost> = BTreeMap::new();
    for run in journal::list(layout).iter().rev().take(RUNS) {
        let Ok(past) = Past::read(layout, run) else { continue };
        if past.state.experiment != graph.name || past.state.profile != graph.profile {
            continue;
        }
        for (name, node) in past.state.nodes {
            if node.phase == Phase::Ended(End::Ran) {
                known.entry(name).or_insert(Cost {
                    nodes: 1,
                    computed: 1,
                    seconds: node.seconds,
                    records: node.counts.done,
                    input_tokens: node.counts.input_tokens,
                    output_tokens: node.counts.output_tokens,
                });
            }
        }
    }
    own.map(|nodes| {
        let mut total = Cost { nodes: nodes.len() as u64, ..Cost::default() };
        for cost in nodes.iter().filter_map(|&id| known.get(&*graph.node(id).name)) {
            total.computed += 1;
            total.seconds += cost.seconds;
            total.records += cost.records;
            total.input_tokens += cost.input_tokens;
            total.output_tokens += cost.output_tokens;
        }
        total
    })
}
