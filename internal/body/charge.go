package body

// Charge counts n bytes that were made of a body against the budget.
func (r *Reader) Charge(n int64) error {
	if r.Budget.left.Add(-n) < 0 {
		r.Budget.left.Add(n)
		return ErrBusy
	}
	r.held += n
	return nil
}
