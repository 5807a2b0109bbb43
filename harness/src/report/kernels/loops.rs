//! Loops of a function, found on its graph of blocks.
//!
//! A branch back is not yet a loop: compilers put rare code, such as the waiting for a barrier, behind everything else and jump
//! back from there. A loop is a block that every way to the branch passes through, and all blocks between the two.

use std::collections::{BTreeMap, BTreeSet};

use super::sass::Instruction;

/// The hot loop of a function: of the loops without another loop of products inside, the one with the most products; the
/// shorter of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotLoop<'a> {
    /// All of it, each instruction once, whether a branch skips it or not.
    pub body: Vec<&'a Instruction>,
    /// The shortest way through it among those with the most products: without what a branch skips.
    pub shortest: Vec<&'a Instruction>,
}

/// The hot loop; none in a function whose products stand in no loop, or that has none.
pub fn hot_loop(function: &[Instruction]) -> Option<HotLoop<'_>> {
    let graph = Graph::of(function);
    let loops: Vec<(usize, BTreeSet<usize>)> = graph.loops().into_iter().filter(|(_, body)| graph.products(body) > 0).collect();
    let is_innermost = |(head, body): &&(usize, BTreeSet<usize>)| !loops.iter().any(|(inner, _)| inner != head && body.contains(inner));
    let length = |body: &BTreeSet<usize>| body.iter().map(|block| graph.blocks[*block].len()).sum::<usize>();
    let (head, body) = loops.iter().filter(is_innermost).max_by_key(|(_, body)| (graph.products(body), std::cmp::Reverse(length(body))))?;
    let all = |blocks: &mut dyn Iterator<Item = usize>| blocks.flat_map(|block| graph.blocks[block]).collect();
    Some(HotLoop { body: all(&mut body.iter().copied()), shortest: all(&mut graph.shortest(*head, body).into_iter()) })
}

/// Blocks of instructions without a branch inside, in the order of their addresses.
struct Graph<'a> {
    blocks: Vec<&'a [Instruction]>,
    next: Vec<Vec<usize>>,
}

impl<'a> Graph<'a> {
    fn of(function: &'a [Instruction]) -> Self {
        let places: BTreeMap<u64, usize> = function.iter().enumerate().map(|(place, instruction)| (instruction.address, place)).collect();
        let target = |instruction: &Instruction| instruction.target.and_then(|target| places.get(&target).copied());
        let mut starts = BTreeSet::from([0]);
        for (place, instruction) in function.iter().enumerate() {
            starts.extend(target(instruction));
            if instruction.target.is_some() || instruction.is_end {
                starts.insert(place + 1);
            }
        }
        starts.insert(function.len());
        let bounds: Vec<usize> = starts.into_iter().filter(|start| *start <= function.len()).collect();
        let blocks: Vec<&[Instruction]> = bounds.windows(2).map(|pair| &function[pair[0]..pair[1]]).collect();
        let block_at = |place: usize| bounds.binary_search(&place).ok().filter(|block| *block < blocks.len());
        let next = blocks.iter().enumerate().map(|(index, block)| {
            let Some(last) = block.last() else { return Vec::new() };
            let through = (!last.is_end).then(|| block_at(bounds[index + 1])).flatten();
            through.into_iter().chain(target(last).and_then(block_at)).collect()
        });
        let next = next.collect();
        Self { blocks, next }
    }

    fn products(&self, blocks: &BTreeSet<usize>) -> usize {
        blocks.iter().map(|block| self.products_of(*block)).sum()
    }

    fn products_of(&self, block: usize) -> usize {
        self.blocks[block].iter().filter(|instruction| instruction.is_tensor()).count()
    }

    /// Blocks that can be reached from the first one, each before those that follow it, but for branches back.
    fn order(&self) -> Vec<usize> {
        let (mut order, mut seen, mut open) = (Vec::new(), vec![false; self.blocks.len()], vec![(0, 0)]);
        if self.blocks.is_empty() {
            return order;
        }
        seen[0] = true;
        while let Some((block, tried)) = open.last_mut() {
            match self.next[*block].get(*tried) {
                Some(&next) => {
                    *tried += 1;
                    if !seen[next] {
                        seen[next] = true;
                        open.push((next, 0));
                    }
                }
                None => {
                    order.push(*block);
                    open.pop();
                }
            }
        }
        order.reverse();
        order
    }

    /// Of each block the last block that every way to it passes through, itself left out; after Cooper, Harvey and Kennedy.
    fn passed(&self, order: &[usize]) -> Vec<Option<usize>> {
        let mut rank = vec![usize::MAX; self.blocks.len()];
        order.iter().enumerate().for_each(|(at, block)| rank[*block] = at);
        let mut before = vec![Vec::new(); self.blocks.len()];
        order.iter().for_each(|block| self.next[*block].iter().for_each(|next| before[*next].push(*block)));
        let mut passed: Vec<Option<usize>> = vec![None; self.blocks.len()];
        if let Some(first) = order.first() {
            passed[*first] = Some(*first);
        }
        let common = |passed: &[Option<usize>], mut a: usize, mut b: usize| {
            while a != b {
                let later = if rank[a] > rank[b] { &mut a } else { &mut b };
                *later = passed[*later].unwrap_or(order[0]);
            }
            a
        };
        let mut is_changed = true;
        while is_changed {
            is_changed = false;
            for &block in order.iter().skip(1) {
                let known = before[block].iter().copied().filter(|block| passed[*block].is_some());
                let found = known.reduce(|a, b| common(&passed, a, b));
                is_changed |= found != passed[block];
                passed[block] = found;
            }
        }
        passed
    }

    /// Loops by the block that they begin with. Branches back to one block are of one loop.
    fn loops(&self) -> BTreeMap<usize, BTreeSet<usize>> {
        let order = self.order();
        let passed = self.passed(&order);
        let passes = |head: usize, mut block: usize| loop {
            if block == head {
                return true;
            }
            match passed[block] {
                Some(earlier) if earlier != block => block = earlier,
                _ => return false,
            }
        };
        let mut before = vec![Vec::new(); self.blocks.len()];
        order.iter().for_each(|block| self.next[*block].iter().for_each(|next| before[*next].push(*block)));
        let mut loops: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        for &block in &order {
            for &head in self.next[block].iter().filter(|head| passes(**head, block)) {
                let body = loops.entry(head).or_insert_with(|| [head].into());
                let mut open = vec![block];
                while let Some(block) = open.pop() {
                    if body.insert(block) {
                        open.extend(&before[block]);
                    }
                }
            }
        }
        loops
    }

    /// The shortest way from the head of a loop back to it, among those with the most products.
    fn shortest(&self, head: usize, body: &BTreeSet<usize>) -> Vec<usize> {
        let order: Vec<usize> = self.order().into_iter().filter(|block| body.contains(block)).collect();
        let cost = |block: usize| (-(self.products_of(block) as i64), self.blocks[block].len() as i64);
        // of each block: what the best way to its end costs, and from where it comes
        let mut best: BTreeMap<usize, ((i64, i64), Option<usize>)> = BTreeMap::from([(head, (cost(head), None))]);
        for (at, &block) in order.iter().enumerate() {
            let Some(&(so_far, _)) = best.get(&block) else { continue };
            for &next in self.next[block].iter().filter(|next| order[at + 1..].contains(next)) {
                let more = cost(next);
                let way = (so_far.0 + more.0, so_far.1 + more.1);
                if best.get(&next).is_none_or(|(known, _)| way < *known) {
                    best.insert(next, (way, Some(block)));
                }
            }
        }
        let ends = best.iter().filter(|(block, _)| self.next[**block].contains(&head));
        let mut at = ends.min_by_key(|(_, (cost, _))| *cost).map(|(block, _)| *block);
        let mut way = Vec::new();
        while let Some(block) = at {
            way.push(block);
            at = best.get(&block).and_then(|(_, from)| *from);
        }
        way.reverse();
        way
    }
}

#[cfg(test)]
mod tests {
    use super::super::sass::parse;
    use super::*;

    const SAMPLE: &str = include_str!("sample.sass");

    fn at(address: u64, name: &str, target: Option<u64>) -> Instruction {
        // a branch of these has a condition unless it is called JMP
        Instruction { address, name: name.into(), target, is_end: matches!(name, "JMP" | "EXIT"), is_left_shared: false }
    }

    fn addresses(body: &[&Instruction]) -> Vec<u64> {
        body.iter().map(|instruction| instruction.address).collect()
    }

    #[test]
    fn the_hot_loop_is_the_innermost_one_with_the_most_products() {
        let code = parse(SAMPLE);
        let hot = hot_loop(&code["product"]).unwrap();
        assert_eq!((hot.body[0].address, hot.body[hot.body.len() - 1].address), (0xc0, 0x1b0));
        assert_eq!(hot.body.iter().filter(|instruction| instruction.is_tensor()).count(), 3);
        // a branch goes over two instructions
        assert_eq!(hot.shortest.len() + 2, hot.body.len());
        assert!(hot_loop(&code["copy_rows"]).is_none(), "a loop that copies is not one of products");
    }

    #[test]
    fn the_outer_of_two_loops_with_products_is_not_the_hot_one() {
        let code = [
            at(0, "IMMA.16832.S8.S8", None),
            at(16, "HMMA.16816.F32.BF16", None),
            at(32, "HMMA.16816.F32.BF16", None),
            at(48, "BRA", Some(16)),
            at(64, "IMMA.16832.S8.S8", None),
            at(80, "BRA", Some(0)),
            at(96, "JMP", Some(96)),
        ];
        assert_eq!(addresses(&hot_loop(&code).unwrap().body), [16, 32, 48]);
        // a product without a loop
        assert!(hot_loop(&code[..3]).is_none());
        assert!(hot_loop(&[]).is_none());
    }

    #[test]
    fn a_jump_back_from_code_behind_everything_is_no_loop() {
        // a wait before the loop and one inside, whose rare parts stand behind the end
        let code = [
            at(0, "SYNCS", None),
            at(16, "BRA", Some(112)),
            at(32, "IMMA.16832.S8.S8", None),
            at(48, "BRA", Some(144)),
            at(64, "HMMA.16816.F32.BF16", None),
            at(80, "BRA", Some(32)),
            at(96, "EXIT", None),
            at(112, "SYNCS", None),
            at(128, "JMP", Some(32)),
            at(144, "SYNCS", None),
            at(160, "BRA", Some(144)),
            at(176, "JMP", Some(64)),
        ];
        let hot = hot_loop(&code).unwrap();
        assert_eq!(addresses(&hot.body), [32, 48, 64, 80, 144, 160, 176]);
        assert_eq!(addresses(&hot.shortest), [32, 48, 64, 80]);
    }
}
