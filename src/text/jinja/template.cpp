#include "text/jinja/template.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/jinja/parser.h"
#include "text/jinja/renderer.h"

namespace d2q::jinja {
namespace {

std::tm local_time() {
  const std::time_t seconds = std::time(nullptr);
  std::tm now = {};
  ::localtime_r(&seconds, &now);
  return now;
}

}  // namespace

struct Template::Parsed {
  std::string name;
  Body body;
};

Template::Template(std::string_view source, std::string name) {
  if (source.size() > kMaxTemplateBytes) {
    fail(ErrorCode::kCorrupt, "{}: {} bytes, the limit of a template is {}", name, source.size(),
         kMaxTemplateBytes);
  }
  Body body = parse_template(source, name);
  parsed_ = std::make_unique<const Parsed>(Parsed{std::move(name), std::move(body)});
}

Template::~Template() = default;
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;

std::string Template::render(const nlohmann::ordered_json& context,
                             const RenderOptions& options) const {
  D2Q_CHECK(context.is_object(), "a context of {}", context.type_name());
  Scope globals(nullptr);
  for (const auto& [name, value] : context.items()) globals.set(name, Value::from_json(value));
  const std::tm now = options.now ? *options.now : local_time();
  Budget budget(options.limits);
  Renderer renderer(globals, now, budget);
  try {
    return renderer.render(parsed_->body);
  } catch (const Error& error) {
    fail(error.code(), "{}:{}: {}", parsed_->name, renderer.line(), error.what());
  }
}

}  // namespace d2q::jinja
