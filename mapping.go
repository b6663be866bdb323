package apexproxy

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/loadchange/apexproxy/internal/protocol"
)

// mapping is a parsed list of from#to entries; of two with one from, the later counts.
type mapping []struct{ from, to string }

// parseMapping reads the grammar of X-APEX-AI-PROXY-MAPPING: from#to entries separated by commas.
// Spaces around parts and empty entries are ignored; to may itself end in #provider.
func parseMapping(s string) (mapping, error) {
	if s == "" {
		return nil, nil
	}
	var m mapping
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		from, to, found := strings.Cut(entry, "#")
		name, provider, named := strings.Cut(to, "#")
		from, name, provider = strings.TrimSpace(from), strings.TrimSpace(name), strings.TrimSpace(provider)
		if !found || from == "" || name == "" || named && (provider == "" || strings.Contains(provider, "#")) {
			return nil, fmt.Errorf("mapping entry %s is not from#to or from#to#provider", quoteShort(entry))
		}
		if named {
			name += "#" + provider
		}
		m = append(m, struct{ from, to string }{from, name})
	}
	return m, nil
}

// find returns what a name is mapped to.
func (m mapping) find(bare string) (to string, ok bool) {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i].from == bare {
			return m[i].to, true
		}
	}
	return "", false
}

// quoteShort quotes a client's text for a message, cut to a readable length.
func quoteShort(s string) string {
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:80], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}

// mappings returns those of one request: the client's own behind the operator's, so that it is
// found first. Only one of them applies, once.
func (p *Proxy) mappings(r *http.Request) (mapping, *reply) {
	own, err := parseMapping(strings.Join(r.Header[headerMapping], ","))
	if err != nil {
		return nil, refuse(400, "invalid_mapping", "X-APEX-AI-PROXY-MAPPING: %v", err)
	}
	return slices.Concat(p.mapping, own), nil
}

func duplicateModel() *reply {
	return refuse(400, "ambiguous_model", "the request body has more than one \"model\": send it once")
}

// namedModel finds name#provider in the body and maps it. The body must be an object with one
// model.
func (p *Proxy) namedModel(x *exchange, models mapping) (name, provider string, rp *reply) {
	if rp := p.understand(x); rp != nil {
		return "", "", rp
	}
	model, isString := x.doc.Model.String(x.text)
	switch {
	case !x.doc.Object:
		return "", "", refuse(400, "invalid_json", "the request body must be a JSON object")
	case x.doc.Model.Count > 1:
		return "", "", duplicateModel()
	case !isString || model == "":
		return "", "", refuse(400, "model_missing", "\"model\" must be a non-empty string: write it as name#provider")
	}
	x.clientModel, x.rewrite = model, true
	if strings.Count(model, "#") > 1 {
		return "", "", refuse(400, "invalid_model", "model %s has more than one #: write it as name#provider", quoteShort(model))
	}
	bare, suffix, _ := strings.Cut(model, "#")
	resolved := model
	if to, ok := models.find(bare); ok {
		resolved = to
		if !strings.Contains(to, "#") && suffix != "" {
			resolved += "#" + suffix
		}
	}
	name, provider, _ = strings.Cut(resolved, "#")
	if name == "" || provider == "" {
		return "", "", refuse(400, "invalid_model", "model %s names no provider: write it as name#provider", quoteShort(model))
	}
	return name, provider, nil
}

// opaqueModel maps the model of a passthrough body, whatever it is. Any valid JSON passes, and a
// body that cannot or need not be read stays exactly as it came.
func (p *Proxy) opaqueModel(x *exchange, models mapping) *reply {
	if x.encoding != "" && len(models) == 0 && !x.converts() {
		return nil
	}
	if rp := p.understand(x); rp != nil {
		return rp
	}
	model, isString := x.doc.Model.String(x.text)
	x.clientModel, x.model = model, model
	if x.doc.Model.Count > 1 && (len(models) > 0 || x.converts()) {
		return duplicateModel()
	}
	bare, suffix, hashed := strings.Cut(model, "#")
	to, ok := models.find(bare)
	if ok && isString {
		to, _, _ = strings.Cut(to, "#")
		if hashed {
			to += "#" + suffix
		}
		x.model, x.rewrite = strings.Clone(to), true
	}
	if x.upstream == protocol.Chat {
		x.setProfile(nil, "")
	}
	return nil
}
