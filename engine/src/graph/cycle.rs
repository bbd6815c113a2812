//! Cycles among the nodes of a graph that is being compiled.

use super::NodeInput;

/// How far the walk is with a node.
#[derive(Clone, Copy, PartialEq)]
enum Seen {
    Not,
    OnPath,
    Done,
}

/// Every cycle that a depth-first walk against the flow closes, as the nodes along it, the first repeated at the end.
///
/// `inputs` are those of each node. Not all cycles there are, but at least one of every group of nodes that are entangled.
pub(super) fn find_cycles(inputs: &[&[NodeInput]]) -> Vec<Vec<usize>> {
    let mut seen = vec![Seen::Not; inputs.len()];
    let mut cycles = Vec::new();
    for start in 0..inputs.len() {
        if seen[start] != Seen::Not {
            continue;
        }
        // A path of (node, next input to follow); no recursion, since a chain may be as long as the graph.
        let mut path = vec![(start, 0)];
        seen[start] = Seen::OnPath;
        while let Some((node, next)) = path.last_mut() {
            let Some(input) = inputs[*node].get(*next) else {
                seen[*node] = Seen::Done;
                path.pop();
                continue;
            };
            *next += 1;
            let source = input.source.index();
            match seen[source] {
                Seen::Done => {}
                Seen::Not => {
                    seen[source] = Seen::OnPath;
                    path.push((source, 0));
                }
                Seen::OnPath => {
                    let first = path.iter().position(|(node, _)| *node == source).expect("it is on the path");
                    cycles.push(path[first..].iter().map(|(node, _)| *node).chain([source]).collect());
                }
            }
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::NodeId;
    use super::*;

    fn inputs(edges: &[(usize, usize)], nodes: usize) -> Vec<Vec<NodeInput>> {
        let mut inputs = vec![Vec::new(); nodes];
        for (from, to) in edges {
            let source = NodeId::new(*from);
            inputs[*to].push(NodeInput { port: "in".into(), source, output: "out".into(), gathered: false });
        }
        inputs
    }

    fn cycles(edges: &[(usize, usize)], nodes: usize) -> Vec<Vec<usize>> {
        let inputs = inputs(edges, nodes);
        find_cycles(&inputs.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn a_long_chain_is_walked_and_its_end_tied() {
        let mut edges: Vec<_> = (1..200_000).map(|node| (node - 1, node)).collect();
        assert!(cycles(&edges, 200_000).is_empty());
        edges.push((199_999, 199_998));
        assert_eq!(cycles(&edges, 200_000), [[199_998, 199_999, 199_998]]);
    }

    proptest! {
        #[test]
        fn there_is_a_cycle_exactly_if_petgraph_says_so(edges in proptest::collection::vec((0_usize..8, 0_usize..8), 0..16)) {
            let graph = petgraph::graph::DiGraph::<(), (), u32>::from_edges(edges.iter().map(|(from, to)| (*from as u32, *to as u32)));
            let found = cycles(&edges, 8);
            prop_assert_eq!(!found.is_empty(), petgraph::algo::is_cyclic_directed(&graph));
            for cycle in found {
                prop_assert!(cycle.windows(2).all(|pair| edges.contains(&(pair[1], pair[0]))));
            }
        }
    }
}
