//! Who may go on: those that were answered in this turn.

use std::collections::VecDeque;

/// Indices in the order in which they came, each once.
pub(super) struct Answered {
    order: VecDeque<usize>,
    is_in: Vec<bool>,
}

impl Answered {
    /// None yet of so many.
    pub(super) fn none_of(count: usize) -> Self {
        Self { order: VecDeque::with_capacity(count), is_in: vec![false; count] }
    }

    pub(super) fn add(&mut self, index: usize) {
        if !std::mem::replace(&mut self.is_in[index], true) {
            self.order.push_back(index);
        }
    }

    /// Takes the first.
    pub(super) fn take(&mut self) -> Option<usize> {
        let index = self.order.pop_front()?;
        self.is_in[index] = false;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_there_once_and_may_come_again() {
        let mut answered = Answered::none_of(3);
        for index in [2, 0, 2, 0] {
            answered.add(index);
        }
        assert_eq!((answered.take(), answered.take(), answered.take()), (Some(2), Some(0), None));
        answered.add(2);
        assert_eq!((answered.take(), answered.take()), (Some(2), None));
    }
}
