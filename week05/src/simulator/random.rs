//! Random numbers that are the same on every machine.

/// A generator (splitmix64) with a seed.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// Returns a number from 0 up to, but not including, 1.
    pub fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns a number of the exponential distribution with mean 1.
    ///
    /// It only compares uniform numbers (von Neumann, "Various techniques used
    /// in connection with random digits", 1951). `f64::ln` may differ between
    /// machines in its last bit.
    pub fn exponential(&mut self) -> f64 {
        let mut whole = 0.0;
        loop {
            let first = self.uniform();
            let (mut last, mut falling) = (first, 1);
            loop {
                let next = self.uniform();
                if next >= last {
                    break;
                }
                (last, falling) = (next, falling + 1);
            }
            if falling % 2 == 1 {
                return whole + first;
            }
            whole += 1.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_numbers_have_the_mean_and_the_tail_of_their_distribution() {
        let mut random = Random(1);
        let n = 100_000;
        let numbers: Vec<f64> = (0..n).map(|_| random.exponential()).collect();
        let mean = numbers.iter().sum::<f64>() / f64::from(n);
        assert!((mean - 1.0).abs() < 0.01, "the mean is {mean}");
        // A share of e^-x is above x.
        for (x, share) in [(0.5, 0.6065), (1.0, 0.3679), (3.0, 0.0498)] {
            let above = numbers.iter().filter(|&&number| number > x).count();
            let above = above as f64 / f64::from(n);
            assert!((above - share).abs() < 0.005, "{above} are above {x}");
        }
    }
}
